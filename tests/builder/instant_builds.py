"""What a build does to a store, with stages whose rows are made at once, without a model or a cluster."""

import pyarrow as pa

from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.record import Notes
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, Work
from cyclepref.builder.stages.steps import blocks_of, failure, receipt
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest


def generations(*names: str, model: str = "m") -> pa.Table:
    rows = [
        {"generation_id": digest(n), "model": model, "content_id": digest("c", n), "text": n, "fingerprint": "f"}
        for n in names
    ]
    return pa.Table.from_pylist(rows, schema=records.GENERATION)


def build(store: Store, wanted: dict[str, list[str]], failing: tuple[str, ...] = ()) -> None:
    """What a build does to a store, with an accountant and a stage whose rows are made at once."""
    rows = [{"generation_id": digest(n), "text": n, "model": m} for m, names in wanted.items() for n in names]
    work = Work("candidates", "generations", "generation_id", pa.Table.from_pylist(rows))

    def do(todo: pa.Table):
        for block in blocks_of(todo, 1):
            [row] = block.to_pylist()
            wrong = row["text"] in failing
            if wrong:
                bad = failure(row | {"error_class": "E", "message": "[b]no"}, "generation_id", "candidates", "text")
                store.write_part("failures", pa.Table.from_pylist([bad], schema=records.FAILURE))
            else:
                store.write_part("generations", generations(row["text"], model=row["model"]))
            yield receipt(block, int(wrong))

    with hold(store, "build") as held, Notes(store, held.check).of("mine") as notes:
        Accountant(store, 1.0, notes=notes).run(work, do)
        models = {name: {"fingerprint": "f"} for name in wanted}
        store.write_json("run.json", {"models": models, "counts": {"inputs": {"read": 0, "failed": 0}}})
