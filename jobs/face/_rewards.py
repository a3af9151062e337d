"""The functions of `import cyclepref` for reward models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclepref.builder.reward.best_of_n import Kept
    from cyclepref.builder.reward.model import RewardModel
    from cyclepref.builder.reward.opening import ImageLike
    from cyclepref.builder.reward.scoring import Ranking, Scores
    from cyclepref.builder.reward.training.settings import TrainRecipe

    # A folder, a Hub id, or the model itself.
    ModelLike = str | Path | RewardModel


def train_reward(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    recipe: "str | Path | dict[str, Any] | TrainRecipe | None" = None,
    workers: int = 1,
    cache: str | Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Train a reward model on preference pairs; returns its metrics. After a stop, the same call resumes the training.

    `sources` are run directories, dataset folders or Hub repositories, at most one of each cycle. `recipe` is a path,
    the name of a shipped one, a mapping or a `TrainRecipe`; `changes` replace its settings (`start=`, `epochs=`,
    `**{"head.pooling": "first"}`). With several `workers` Ray divides each step among them.

    Raises:
        RewardError: if a setting is wrong, `start` is not a model, or `out` holds another training. LoadError: if a
        source cannot be read.

    >>> metrics = cyclepref.train_reward("plain", "trained", start="captioner", epochs=1, inputs_per_step=4)
    >>> sorted(metrics["pairwise_accuracy"]["i2t2i"])
    ['test', 'train', 'validation']
    """
    settings = train_recipe(recipe, changes)
    given = [str(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
    cached = Path(cache) if cache is not None else None
    if workers > 1:
        from cyclepref.builder.reward.training.workers import train_with_workers

        return train_with_workers(given, settings, Path(out), workers, cached)
    from cyclepref.builder.reward.training.train import train_reward

    return train_reward(given, settings.start, out, settings, revision=settings.revision, cache=cached).metrics


def train_recipe(recipe: "str | Path | dict[str, Any] | TrainRecipe | None", changes: dict[str, Any]) -> "TrainRecipe":
    """The settings of a training, from the arguments of `train_reward`."""
    from cyclepref.builder.reward.start_names import start_of_recipe
    from cyclepref.builder.reward.training.settings import TrainRecipe, load_train_recipe
    from cyclepref.jobs.recipe_names import recipe_path

    if isinstance(recipe, TrainRecipe):
        recipe = recipe.model_dump(exclude_unset=True)
    if recipe is None or isinstance(recipe, dict):
        return load_train_recipe(None, (recipe or {}) | changes)
    path = recipe_path(str(recipe), "reward")
    settings = load_train_recipe(path, changes)
    if "start" in changes:
        return settings
    return settings.model_copy(update={"start": start_of_recipe(settings.start, path.parent)})


def evaluate(
    model: "ModelLike",
    datasets: str | Path | Sequence[str | Path],
    *,
    against: Sequence[str] | None = None,
    split: str | None = None,
    allow_leak: bool = False,
    device: str | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Measure a reward model on judged pairs, beside baselines: accuracies with intervals, calibration, best-of-n.

    `datasets` are run directories, published datasets, or human labels in a known layout (FORMAT:PLACE names it).
    `against` defaults to the dataset's own cycle score, length and chance.

    Raises:
        LoadError: if a dataset cannot be read.
        LeakError: if the model was trained on inputs of it, unless `allow_leak`.
        EvaluationError: if no pair of it can be judged, or `against` has an unknown name.

    >>> found = cyclepref.evaluate("reward", "runs/mine")
    >>> [sorted(entry["judges"]) for entry in found["datasets"]]
    [['cycle', 'length', 'random', 'reward']]
    """
    from cyclepref.builder.reward.evaluation.evaluate import evaluate
    from cyclepref.builder.reward.evaluation.names import DEFAULT

    opened = open_model(model, device)
    place = model if isinstance(model, (str, Path)) else opened.name_or_path
    named = [str(each) for each in ([datasets] if isinstance(datasets, (str, Path)) else datasets)]
    options: dict[str, Any] = {"split": split, "allow_leak": allow_leak, "batch_size": batch_size}
    return evaluate(opened, place, named, against=tuple(DEFAULT if against is None else against), **options)


def score(
    model: "ModelLike",
    *,
    images: "ImageLike | Sequence[ImageLike]",
    texts: str | Sequence[str],
    device: str | None = None,
    batch_size: int = 64,
) -> "Scores":
    """Rewards of image-text pairs, one for each pair. A single image is paired with every text, a single text with
    every image.

    Higher is better; rewards of different models cannot be compared.

    Raises:
        RewardError: if there is no such model or device, or the numbers of images and texts do not match.
        ImageNotFound, UnreadableImage, WrongType: for an image or text that cannot be read.

    >>> len(cyclepref.score("reward", images="a.png", texts=["a plain red picture", "a plain blue picture"]))
    2
    """
    return open_model(model, device).score(images=images, texts=texts, batch_size=batch_size)


def rank(
    model: "ModelLike",
    *,
    images: "ImageLike | Sequence[ImageLike]",
    texts: str | Sequence[str],
    device: str | None = None,
) -> "Ranking":
    """Rank many images for one text, or many texts for one image: `order` has their positions, best first.

    Raises:
        RewardError: if there is no such model or device, or both images and texts are several.

    >>> ranking = cyclepref.rank("reward", images=["a.png", "b.png"], texts="a plain red picture")
    >>> sorted(ranking.order)
    [0, 1]
    """
    opened = open_model(model, device)
    if isinstance(texts, str):
        return opened.rank(prompt=texts, images=images if isinstance(images, (list, tuple)) else [images])
    if isinstance(images, (list, tuple)):
        from cyclepref.builder.reward.errors import RewardError

        raise RewardError("rank takes one text with many images, or one image with many texts, and got many of both")
    return opened.rank_captions(image=images, texts=texts)


def best_of_n(
    model: "ModelLike", folder: str | Path, k: int = 1, *, device: str | None = None, batch_size: int = 64
) -> "list[Kept]":
    """The best k candidates of every input of a run directory, or of every prompt of a folder of pictures.

    Raises:
        RewardError: if k is not positive, or no candidates are found.

    >>> kept = cyclepref.best_of_n("reward", "runs/mine", k=2)
    >>> len(kept), {len(each.kept) for each in kept}
    (40, {2})
    """
    from cyclepref.builder.reward.best_of_n import best_of_groups, open_groups

    _, groups = open_groups(folder)
    return list(best_of_groups(open_model(model, device), groups, k, batch_size))


def convert_reward(
    checkpoint: str | Path, kind: str, out: str | Path, tokenizer: str = "bert-base-uncased"
) -> "RewardModel":
    """Convert a released checkpoint (CycleReward's or ImageReward's) to a reward model in a new or empty folder, and
    return it.

    Raises:
        RewardError: if `out` has something in it, or the checkpoint does not fit.

    >>> cyclepref.convert_reward("missing.pth", "imagereward", "models/imagereward")
    Traceback (most recent call last):
    cyclepref.builder.reward.errors.RewardError: ...
    """
    from cyclepref.builder.reward.card import write_plain_card
    from cyclepref.builder.reward.kept import new_folder
    from cyclepref.builder.reward.origin import Origin
    from cyclepref.builder.reward.released.checkpoint import read_tokenizer, read_weights
    from cyclepref.builder.reward.released.convert import convert, kind_of

    out = Path(out)
    new_folder(out)
    of = kind_of(kind)
    model = convert(read_weights(Path(checkpoint)), kind, read_tokenizer(tokenizer))
    model.save_pretrained(out)
    origin = Origin(of.licence, of.licence, [], of.repo, list(of.datasets))
    write_plain_card(out, model.config, about=f"These are {of.about}.", overwrite=True, origin=origin)
    return model


def open_model(model: "ModelLike", device: str | None = None) -> "RewardModel":
    """Open a reward model on `device`, by default the GPU if there is one. A model that is already loaded stays on its
    device if `device` is None.

    Raises:
        RewardError: if there is no such model or device.
    """
    from cyclepref.builder.reward.model import RewardModel
    from cyclepref.builder.reward.released.load import usable_device

    if isinstance(model, RewardModel):
        return model.to(usable_device(device)) if device else model
    where = usable_device(device)
    return RewardModel.from_pretrained(model).to(where).eval()
