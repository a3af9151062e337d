"""A whole build, as a table of contents: inputs, candidates, reconstructions, scores, pairs, dataset."""

import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cyclepref.builder import __version__
from cyclepref.builder.catalog.resolve import metric_spec, model_spec, resolve
from cyclepref.builder.costs.measured import keep, kept
from cyclepref.builder.costs.spent import counted
from cyclepref.builder.dataset.card import Facts
from cyclepref.builder.dataset.edition import release
from cyclepref.builder.dataset.licences import inputs_licence
from cyclepref.builder.dataset.views import Views
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.pairing.mix import mix_of
from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.run.blocks import Scratch
from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.mending import MENDS, set_damaged_aside
from cyclepref.builder.run.provenance import provenance, remember
from cyclepref.builder.run.record import Notes
from cyclepref.builder.run.store import DamagedPart, Store, without
from cyclepref.builder.run.tracking import tracked
from cyclepref.builder.run.upkeep import join_small
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages import compare, generate
from cyclepref.builder.stages.accounting import Accountant, BuildError
from cyclepref.builder.stages.ahead import CONTENT, RECONSTRUCTIONS, ReconstructionsAhead
from cyclepref.builder.stages.derive import Derivation, Models
from cyclepref.builder.stages.ingest import ingest, list_items
from cyclepref.builder.stages.load_check import LoadCheck
from cyclepref.builder.stages.needs import require
from cyclepref.builder.stages.safety import resolve_safety
from cyclepref.builder.stages.wanted import Use
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import MIX, Recipe, RecipeError
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.run_files import LockFile, RunJson


def build(recipe: Recipe, out: str | Path, retry_failed: bool = False, engine: Engine | None = None) -> dict[str, Any]:
    """Run a recipe in a run directory, doing only what is not there yet; returns the content of its run.json.

    Raises:
        RecipeError: for a model, metric or source that the recipe names wrongly.
        StoreError: if `out` cannot be a run directory: a folder with files that are none of a run is none.
        LockError: if another build works in it.
        BuildError: if too many rows fail; what was finished stays.
        EngineError: if a worker cannot start.
        TrackingError: if the tracker that the recipe asks for does not begin a run.
    """
    if engine is None:
        with Engine() as own:
            return build(recipe, out, retry_failed, own)
    _refuse_among_inputs(recipe, Store(out))
    engaged = counted(Store(out), engine.meter)
    with hold(Store(out), "build") as held, engaged, tracked(recipe, Store(out)) as tracker:
        for _ in range(MENDS):
            # Another store each time, since one remembers what it has read.
            store = Store(out)
            try:
                with Notes(store, held.check, tracker.note).of(recipe.name) as notes:
                    accountant = Accountant(store, recipe.max_failure_rate, retry_failed, notes)
                    run = _whole(recipe, accountant, engine)
                tracker.whole(run)
                return run
            except DamagedPart:
                held.check()
                set_damaged_aside(store)
            except EngineError as error:  # a worker's errors come as their texts
                if error.kind != DamagedPart.__name__:
                    raise
                held.check()
                set_damaged_aside(store)
        raise BuildError(
            f"parts of {store.root} were damaged {MENDS} times while this build ran: look at its disk, and at what "
            "else writes there; then run the same command again"
        )


def _refuse_among_inputs(recipe: Recipe, store: Store) -> None:
    """Refuse a run directory that lies in its own folder of inputs: the next build would read what this one writes.

    Raises:
        RecipeError: if it does.
    """
    path = getattr(recipe.inputs, "path", None)
    if path is None or "://" in store.root:
        return
    inputs, out = Path(path).expanduser().resolve(), Path(store.root).resolve()
    if out.is_relative_to(inputs):
        raise RecipeError(
            f"--out {out} lies in inputs.path {inputs}, so that its pictures would be inputs of the next build: name a "
            "folder elsewhere"
        )


def _whole(recipe: Recipe, accountant: Accountant, engine: Engine) -> dict[str, Any]:
    join_small(accountant.store)
    run = _build(recipe, accountant.store, accountant, engine)
    join_small(accountant.store)
    return run


def _build(recipe: Recipe, store: Store, accountant: Accountant, engine: Engine) -> dict[str, Any]:
    # Everything that can be wrong with a recipe is found before a process is started.
    cycle = recipe.shape
    lock = store.read_json("lock.json", LockFile) or {}
    require(recipe, lock, store.read_json("run.json", RunJson))
    forward, backward, metrics = _resolve_models(recipe, lock)
    models = [*(use.model for use in forward), backward.model]
    used = Models(forward, backward, metrics)
    direction = _direction(recipe, metrics, backward)
    safety = resolve_safety(recipe.safety, lock)
    judges = [*metrics, *([safety] if safety else [])]
    named = [*models, *judges]
    licence = inputs_licence(recipe.dataset.inputs_licence, recipe.inputs.source)
    source = open_source(recipe.inputs, cycle.input)
    listed = list_items(source)[: recipe.inputs.limit]
    store.write_json("lock.json", lock)
    remember(store, named)
    loaded = [model for model in named if model is not backward.model or used.reconstructs]
    engine.expect(model.spec for model in loaded)
    engine.know(loaded, kept(store))

    clock, load_check = Clock(), LoadCheck(store, engine)
    with clock.time("inputs"):
        inputs, input_count = ingest(source, listed, cycle.input, accountant, engine)

    with Scratch() as scratch:
        derived = Derivation(store, scratch, recipe, used, inputs)
        with clock.time("candidates"):
            wanted = derived.wanted_candidates()
            back = backward.samples if used.reconstructs else 0
            load_check.before(_missing(store, wanted) * (1 + back), loaded)
            content = ("inputs", "input_id")
            ahead = ReconstructionsAhead(store, wanted, backward, recipe.seed) if used.reconstructs else None
            candidate_count = generate.generate("candidates", wanted, content, forward, accountant, engine, ahead)
            derived.find_candidates()

        with clock.time("reconstructions"):
            join_small(store)
            wanted = derived.wanted_reconstructions()
            load_check.before(_missing(store, wanted), loaded[len(forward) :])
            for receipt in ahead.receipts if ahead else []:
                accountant.note_halved(RECONSTRUCTIONS, receipt)
            before = ahead.before if ahead else None
            back_count = generate.generate(
                RECONSTRUCTIONS, wanted, CONTENT, [backward], accountant, engine, before=before
            )
            derived.find_reconstructions()

        with clock.time("scores"):
            join_small(store)
            score_count = compare.compare(derived.wanted_similarities(), metrics, accountant, engine)

        with clock.time("pairs"):
            accountant.notes.check()
            pair_count = derived.write_views(direction)

        counts: dict[str, Any] = {
            "inputs": asdict(input_count),
            "candidates": {model: count.to_dict() for model, count in candidate_count.items()},
            "reconstructions": {model: count.to_dict() for model, count in back_count.items()},
            "scores": {name: count.to_dict() for name, count in score_count.items()},
            "pairs": pair_count.to_dict(),
            "truncated": {stage: count.to_dict() for stage, count in derived.truncated.items()},
        }
        with clock.time("dataset"):
            told = _without_reused(counts)
            facts = Facts(recipe, models, metrics, direction, told, __version__, licence, safety)
            views = Views(
                cycle, inputs, derived.made, store.view_blocks("scores"), store.view_blocks("pairs"),
                direction.metric, derived.reconstructions, derived.samples,
            )  # fmt: skip
            before = store.read_json("run.json", RunJson)
            counts |= release(facts, views, accountant, engine, (before or {}).get("counts"))

    accountant.notes.check()
    keep(store, engine.measured(named))
    # A build that only looked does not say that its results took no time.
    earlier = (before or {}).get("seconds")
    seconds = earlier if earlier and _all_reused(counts) else clock.seconds
    run = {**provenance(recipe, named), "counts": counts, "seconds": seconds}
    run["out_of_memory"] = accountant.halved
    store.write_json("run.json", run)
    return run


class Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str):
        """Time a block."""
        begin = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - begin, 2)


def _resolve_models(recipe: Recipe, lock: dict[str, Any]) -> tuple[list[Use], Use, list[Resolved]]:
    """The recipe's forward models, backward model and metrics, with weights and settings settled."""
    cycle, choice = recipe.shape, recipe.backward
    forward = [Use(resolve(model_spec(c, cycle.forward_kind), lock), c.samples) for c in recipe.forward]
    _check_distinct("forward", [use.model for use in forward], "drop one of them, or raise `samples` of the other")
    backward = Use(resolve(model_spec(choice, cycle.backward_kind), lock), choice.samples)
    metrics = [resolve(metric_spec(c, cycle.input, choice), lock) for c in recipe.all_metrics]
    _check_distinct("metrics", metrics, "drop one of them")
    return forward, backward, metrics


def _direction(recipe: Recipe, metrics: list[Resolved], backward: Use) -> Direction:
    """What decides pairs. Their ids are made of the candidates' and of everything that scored them."""
    mix = mix_of(recipe.pairs, metrics)
    if mix:
        name, print_, higher = MIX, mix.fingerprint, True
    else:
        name = recipe.pairs.by or metrics[0].name
        [decides] = [m for m in metrics if m.name == name]
        if recipe.pairs.min_margin_sd is not None and decides.spec.compares == "candidate":
            raise RecipeError(
                f"pairs.min_margin_sd: {name} gives a candidate one score and no error of it, since it compares no "
                "reconstructions: drop min_margin_sd, or let another metric decide"
            )
        print_, higher = decides.fingerprint, decides.spec.higher_is_better
    return Direction(name, digest(print_, backward.model.fingerprint, backward.samples, recipe.seed), higher)


def _check_distinct(where: str, models: list[Resolved], way_out: str) -> None:
    """Refuse two names for one model with one set of settings: they would be the same rows."""
    first: dict[str, str] = {}
    for model in models:
        other = first.setdefault(model.fingerprint, model.name)
        if other != model.name:
            raise RecipeError(f"{where} lists one model with equal settings as {other} and as {model.name}: {way_out}")


def _all_reused(counts: dict[str, Any]) -> bool:
    stages = ("candidates", "reconstructions", "scores", "safety")
    return all(count["reused"] == count["ok"] for stage in stages for count in counts.get(stage, {}).values())


def _missing(store: Store, wanted: pa.Table) -> int:
    return without(wanted, "generation_id", store.ids("generations")).num_rows


def _without_reused(counts: dict[str, Any]) -> dict[str, Any]:
    """The counts that do not depend on how often a build was interrupted: the card tells these."""
    stages = ("candidates", "reconstructions", "scores")
    strip = {
        stage: {m: {k: v for k, v in c.items() if k != "reused"} for m, c in counts[stage].items()} for stage in stages
    }
    return {**counts, **strip}
