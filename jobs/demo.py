"""`cyclepref demo`: both cycles on the embedded world, a reward model, and the truth about them."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from cyclepref.builder.build import build
from cyclepref.builder.catalog.resolve import model_spec
from cyclepref.builder.common import progress
from cyclepref.builder.common.progress import console, plain
from cyclepref.builder.dataset.examples import draw_run
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.reward.training.settings import TrainSettings
from cyclepref.builder.run.blocks import Blocks
from cyclepref.builder.run.store import Store
from cyclepref.builder.study import agreement, by_model
from cyclepref.builder.study.agreement import Estimate, Share
from cyclepref.builder.study.method import Finished
from cyclepref.jobs.run_build import counts_table
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.ids import generation_id, sample_seed
from cyclepref.schemas.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parent / "recipes"
# Small steps, and pairs of images at a quarter of the weight: a captioner and SBERT are wrong about unclear pictures in
# a systematic way, and a reward model that fits their scores closely forgets what its captioner knew.
REWARD = TrainSettings(learning_rate=1e-4, image_weight=0.25)
START = Path(__file__).parent.parent / "builder" / "shapeworld" / "weights" / "blip"


def run_demo(out: Path, inputs: int | None = None) -> dict[str, Any]:
    """Run the demo in `out`, resuming an earlier run there; returns the content of its summary.json."""
    begin = time.monotonic()
    Store(out).refuse_others((*CYCLES, "summary.json"), "demo")
    recipes = {name: _recipe(name, inputs) for name in CYCLES}
    runs = {}
    with Engine() as engine:
        for name, recipe in recipes.items():
            console.print(f"\n[bold]{name}[/bold]  {_story(name)}")
            runs[name] = build(recipe, out / name, engine=engine)
            store = Store(out / name)
            draw_run(store, Blocks.of(_reconstructions(store, recipe, runs[name])), out / f"{name}.png")
            console.print(counts_table(name, runs[name]["counts"]))
    console.print("\n[bold]reward model[/bold]  a BLIP with a Bradley-Terry head, on the pairs of both cycles")
    reward = _reward(out, list(recipes))
    with progress.stage("truth check", len(recipes)) as tick:
        summary: dict[str, Any] = {}
        for name in recipes:
            summary[name] = _summary(out, name, runs[name])
            tick(1)
    summary["reward"] = reward
    summary["seconds"] = round(time.monotonic() - begin, 1)
    Store(out).write_json("summary.json", summary)
    _print(summary, out)
    return summary


def _recipe(name: str, inputs: int | None) -> Recipe:
    recipe = load_recipe(RECIPES / f"shapeworld_{name}.yaml")
    if inputs is None:
        return recipe
    # The two cycles use different scenes: the second one begins where the first one ends.
    scenes = {"limit": inputs, "offset": inputs if recipe.inputs.offset else 0}
    return recipe.model_copy(update={"inputs": recipe.inputs.model_copy(update=scenes)})


def _story(name: str) -> str:
    return {
        "i2t2i": "held-out images → captions → images again; LPIPS compares the images",
        "t2i2t": "held-out prompts → images → captions; SBERT compares the texts",
    }[name]


def _reward(out: Path, cycles: list[str]) -> dict[str, Any]:
    """Train on both datasets, unless a model trained on them with these settings exists."""
    import datasets
    import torch
    import transformers

    from cyclepref.builder.reward.training.train import train_reward

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # A model of this size trains faster on one thread than on two.
    torch.set_num_threads(1)
    runs = [json.loads((out / name / "run.json").read_text()) for name in cycles]
    made_from = {
        "datasets": [run["counts"]["dataset"]["edition"] for run in runs],
        "settings": REWARD.model_dump(mode="json"),
    }
    done = out / "reward" / "made_from.json"
    if not (done.is_file() and json.loads(done.read_text()) == made_from):
        done.unlink(missing_ok=True)
        train_reward([out / name / "dataset" for name in cycles], START, out / "reward", REWARD, replace=True)
        done.write_text(json.dumps(made_from), encoding="utf-8")
    metrics = json.loads((out / "reward" / "metrics.json").read_text())
    return {"pairwise_accuracy": metrics["pairwise_accuracy"], "seconds": metrics["seconds"]}


def _summary(out: Path, name: str, run: dict[str, Any]) -> dict[str, Any]:
    """How often one cycle's pairs agree with the truth, and the reward model on inputs that it was not trained on."""
    from cyclepref.builder.reward.model import RewardModel

    found = Finished.read(out / name)
    pairs, truth, length = found.pairs, found.truth, agreement.lengths(found.store, found.recipe.shape)
    untrained = RewardModel.from_captioner(START, **REWARD.head.model_dump())
    trained = RewardModel.from_pretrained(out / "reward")
    before, reward = (_test_rewards(model, out / name, run) for model in (untrained, trained))
    unseen = pairs.filter(pc.is_in(pairs["chosen_id"], value_set=pa.array(list(reward), pa.string())))
    unseen_same = by_model.within(unseen)
    estimates = {
        "cycle": agreement.estimate(pairs, truth),
        "cycle_on_unseen_inputs": agreement.estimate(unseen, truth),
        "reward": agreement.estimate(unseen, truth, reward.__getitem__),
        "reward_before_training": agreement.estimate(unseen, truth, before.__getitem__),
        "cycle_same_model_on_unseen_inputs": agreement.estimate(unseen_same, truth),
        "reward_same_model": agreement.estimate(unseen_same, truth, reward.__getitem__),
        "reward_before_training_same_model": agreement.estimate(unseen_same, truth, before.__getitem__),
        "length_baseline": agreement.estimate(pairs, truth, length.__getitem__),
        **by_model.estimates(pairs, found.every_two, truth, found.means),
    }
    tied = agreement.tied(pairs, truth)
    shares = estimates | {"cycle_by_margin_quartile": agreement.by_margin_quartile(pairs, truth)}
    return {
        "inputs": run["counts"]["inputs"]["unique"],
        "candidates": found.store.read_view("candidates").num_rows,
        "pairs": pairs.num_rows,
        "seconds": round(sum(run["seconds"].values()), 1),
        "seconds_by_stage": run["seconds"],
        "tied_share": tied.share,
        "tied_share_interval": [tied.low, tied.high],
        "reward_gain": asdict(agreement.gain(unseen, truth, reward.__getitem__)),
        "model_mean_gain": asdict(by_model.gain_of_means(pairs, truth, found.means)),
        "agreement": {key: _values(value, "share") for key, value in shares.items()},
        "agreement_pairs": {key: _values(value, "pairs") for key, value in shares.items()},
        "agreement_intervals": {key: [value.low, value.high] for key, value in estimates.items()},
    }


def _test_rewards(model: Any, folder: Path, run: dict[str, Any]) -> dict[str, float]:
    """The reward of every candidate of the test split, by its id."""
    from cyclepref.builder.reward.training.accuracy import candidate_rewards

    if "test" not in run["counts"]["dataset"]["splits"]:  # a very small demo may have no input in it
        return {}
    rewards = candidate_rewards(model, folder / "dataset", "test")
    return dict(zip(rewards["generation_id"].to_pylist(), rewards["reward"].to_pylist(), strict=True))


def _values(shares: Share | Estimate | list[Share], field: str) -> Any:
    if isinstance(shares, list):
        return [asdict(share)[field] for share in shares]
    return asdict(shares)[field]


def _reconstructions(store: Store, recipe: Recipe, run: dict[str, Any]) -> pa.Table:
    """(source_id, input_id, content_id) of this recipe's first reconstruction of every candidate."""
    model = run["models"][recipe.backward.label]
    greedy = model_spec(recipe.backward, recipe.shape.backward_kind).greedy
    rows = []
    for row in store.read_view("candidates").to_pylist():
        seed = None if greedy else sample_seed(recipe.seed, row["input_id"], 0, "backward")
        if row["status"] == "ok":
            id_ = generation_id(row["content_id"], model["fingerprint"], seed)
            rows.append({"generation_id": id_, "source_id": row["content_id"], "input_id": row["input_id"]})
    made = store.rows("generations", ["generation_id", "content_id"]).drop_columns(["part", "row"])
    return pa.Table.from_pylist(rows).join(made, "generation_id", join_type="inner")


def _print(summary: dict[str, Any], out: Path) -> None:
    table = Table(title="How often the preference is the truth", title_justify="left")
    table.add_column("")
    for name in CYCLES:
        table.add_column(name, justify="right")
    rows = {
        "pairs": lambda s: f"{s['pairs']:,}",
        "  of equal truth, left out below": lambda s: _percent(s["tied_share"]),
        "  the others": lambda s: f"{s['agreement_pairs']['cycle']:,}",
        "cycle score": lambda s: _percent(s["agreement"]["cycle"]),
        "  by margin quartile": lambda s: " ".join(map(_percent, s["agreement"]["cycle_by_margin_quartile"])),
        "  pairs of one model": lambda s: _of(s, "same_model"),
        "  every two candidates of one model": lambda s: _of(s, "same_model_every_two"),
        "  upsets: the worse model's is better": lambda s: _of(s, "upsets"),
        "the model with the better mean is better": lambda s: _percent(s["agreement"]["model_mean_baseline"]),
        "  its gain over the score, 95% interval": lambda s: _interval(s["model_mean_gain"]),
        "on unseen inputs: cycle score": lambda s: _percent(s["agreement"]["cycle_on_unseen_inputs"]),
        "on unseen inputs: reward model": lambda s: _percent(s["agreement"]["reward"]),
        "  its gain, 95% interval": lambda s: _interval(s["reward_gain"]),
        "  on pairs of one model": lambda s: _of(s, "reward_same_model"),
        "  before training on the pairs": lambda s: _percent(s["agreement"]["reward_before_training"]),
        "longer is better": lambda s: _percent(s["agreement"]["length_baseline"]),
        "seconds": lambda s: f"{s['seconds']:.0f}",
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(summary[name]) for name in CYCLES))
    console.print(table)
    for name in CYCLES:
        console.print(plain(f"{name} dataset   {out / name / 'dataset'}"), soft_wrap=True)
        console.print(plain(f"{name} picture   {out / f'{name}.png'}"), soft_wrap=True)
    console.print(plain(f"reward model    {out / 'reward'}"), soft_wrap=True)
    console.print(plain(f"summary         {out / 'summary.json'}"), soft_wrap=True)
    console.print(f"in {summary['seconds']:.0f} s")


def _of(summary: dict[str, Any], name: str) -> str:
    pairs, (low, high) = summary["agreement_pairs"][name], summary["agreement_intervals"][name]
    if not pairs:
        return "none"
    return f"{_percent(summary['agreement'][name])} of {pairs:,}, {100 * low:.0f} to {100 * high:.0f}"


def _interval(gain: dict[str, Any]) -> str:
    return "none" if gain["gain"] is None else f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}%"
