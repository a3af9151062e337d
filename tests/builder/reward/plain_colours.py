"""A world of plain colours, in which it is obvious which caption or picture is right, and preference datasets of it."""

import io
import itertools
import random
from pathlib import Path

from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "white": (240, 240, 240)}


def picture(colour: str, seed: int) -> Image.Image:
    """16x16 pixels of a shade of a colour."""
    rng = random.Random(seed)
    return Image.new("RGB", (16, 16), tuple(min(255, max(0, c + rng.randint(-25, 25))) for c in COLOURS[colour]))


def caption(colour: str) -> str:
    return f"a plain picture of {colour}"


def _png(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_input(cycle: str, number: int) -> dict:
    """One row of rankings: an input of a random colour, and a candidate of each colour; the right one scores 1."""
    rng = random.Random(number)
    truth = rng.choice(list(COLOURS))
    candidates = []
    for index, colour in enumerate(rng.sample(list(COLOURS), len(COLOURS))):
        content = {"text": caption(colour)} if cycle == "i2t2i" else {"image": _png(picture(colour, number + index))}
        about = {"models": ["model"], "sample_index": 0, "seed": None, "spread": 0.0, "n": 1}
        score = float(colour == truth)
        candidates.append({"generation_id": f"{cycle}-{number}-{index}", **content, **about, "score": score})
    source = {"image": _png(picture(truth, number))} if cycle == "i2t2i" else {"prompt": caption(truth)}
    return {"input_id": f"{cycle}-{number}", **source, "candidates": candidates}


def make_pairs(row: dict) -> list[dict]:
    """The pairs of a row of rankings, by score."""
    pairs = []
    for first, second in itertools.permutations(row["candidates"], 2):
        if first["score"] > second["score"]:
            ids = {"chosen_id": first["generation_id"], "rejected_id": second["generation_id"]}
            scores = {"chosen_score": first["score"], "rejected_score": second["score"], "margin": 1.0}
            pairs.append({"pair_id": "|".join(ids.values()), "input_id": row["input_id"], **ids, **scores})
    return pairs


def make_rows(cycle: str, train: int, validation: int = 0, test: int = 0) -> dict[str, dict[str, list[dict]]]:
    """config -> split -> rows, of the given numbers of inputs."""
    sizes = {"train": train, "validation": validation, "test": test}
    numbers = iter(range(sum(sizes.values())))
    rankings = {split: [make_input(cycle, next(numbers)) for _ in range(size)] for split, size in sizes.items()}
    pairs = {split: [pair for row in rows for pair in make_pairs(row)] for split, rows in rankings.items()}
    return {"rankings": rankings, "pairs": pairs}


def write_dataset(folder: Path, cycle: str, rows: dict[str, dict[str, list[dict]]]) -> Path:
    """A dataset folder: parquet files and the card that names them; validation and test are left out without inputs."""
    image, string = ImageFeature(), Value("string")
    source, content = (
        ({"image": image}, {"text": string}) if cycle == "i2t2i" else ({"prompt": string}, {"image": image})
    )
    candidate = {"generation_id": string, **content}
    candidate |= {"models": List(string), "sample_index": Value("int64"), "seed": Value("int64")}
    candidate |= {"spread": Value("float64"), "n": Value("int64"), "score": Value("float64")}
    names = ("pair_id", "input_id", "chosen_id", "rejected_id")
    features = {
        "rankings": Features({"input_id": string, **source, "candidates": List(candidate)}),
        "pairs": Features(
            dict.fromkeys(names, string) | dict.fromkeys(("chosen_score", "rejected_score", "margin"), Value("float64"))
        ),
    }
    card = ["---", "configs:"]
    for config, splits in rows.items():
        card += [f"- config_name: {config}", f"  default: {str(config == 'rankings').lower()}", "  data_files:"]
        for split, found in splits.items():
            if found or rows["rankings"][split] or split == "train":
                card += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
                (folder / config).mkdir(parents=True, exist_ok=True)
                columns = {name: [row[name] for row in found] for name in features[config]}
                table = Dataset.from_dict(columns, features=features[config])
                table.to_parquet(folder / config / f"{split}.parquet")
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder
