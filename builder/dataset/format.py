"""The published layout: columns and features of the three configs, and the card's head that names their files.

Model names are strings in `pairs`, so that any reader of parquet sees them (a ClassLabel is stored as a number); the
Hub's viewer shows strings of few values as classes. In `rankings` the `model` of a candidate is a ClassLabel of the
forward models, and the strings of all that made it are in `models`.
"""

import re
from typing import Any

import pyarrow as pa
import yaml

from cyclepref.schemas.cycle import Cycle, Modality
from cyclepref.schemas.recipe import Pairing

# Goes into an edition's name: counted up when the same views are published as other columns.
VERSION = 2
CONFIGS = ("rankings", "pairs", "reconstructions")
SPLITS = ("train", "validation", "test")
# What a row of each config is, as counts call it.
ROWS = {"rankings": "inputs", "pairs": "pairs", "reconstructions": "reconstructions"}
# The name of a data file, and the pattern of such names that a card's head has. Twelve digits are the edition.
DATA_FILE = re.compile(rf"({'|'.join(CONFIGS)})/({'|'.join(SPLITS)})-[0-9a-f]{{12}}-(\d{{5,}}|\*)\.parquet")
# What the head holds for CyclePref itself, beside what the Hub knows of: the rows of each split, and the rule of pairs.
OWN = "cyclepref"
# What is published of each metric's score of a candidate.
SCORE_FIELDS = ("metric", "value", "spread", "n")
WORDS = {3: "1K", 4: "10K", 5: "100K", 6: "1M", 7: "10M", 8: "100M", 9: "1B", 10: "10B", 11: "100B", 12: "1T"}


def schemas(cycle: Cycle, models: list[str]) -> dict[str, pa.Schema]:
    """Arrow schemas of the configs, with the features that `datasets` reads from a parquet file's metadata.

    `models` are the names of the forward models, in the order of their classes.
    """
    made = {"rankings": _rankings(cycle, models), "pairs": _pairs(cycle), "reconstructions": _reconstructions(cycle)}
    from datasets import Features

    return {name: Features(features).arrow_schema for name, features in made.items()}


def leaves(schema: pa.Schema) -> list[str]:
    """The paths of a schema's columns as parquet names them."""
    return [path for field in schema for path, _ in _leaves(field.name, field.type)]


def image_columns(schema: pa.Schema) -> list[str]:
    """The parquet columns that hold image bytes: nothing else of a dataset or an export is binary."""
    found = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    return [path for path, kind in found if pa.types.is_binary(kind)]


def metadata(
    counts: dict[str, dict[str, int]],
    configs: tuple[str, ...],
    edition: str,
    licence: tuple[str, str],
    rule: Pairing | None = None,
) -> str:
    """The card's YAML head: licence, size, tags, which files are which config and split, and how many rows they have.

    `counts` are those of each split: inputs, pairs, reconstructions. `licence` is an id that the Hub knows, and
    the licence's name, which is told where that id is "other". `rule` is what the pairs were made by, so that they
    can be made again at another threshold from the dataset alone.
    """
    found = []
    for config in configs:
        splits = [split for split in counts if counts[split].get(ROWS[config])]
        files = [{"split": split, "path": f"{config}/{split}-{edition}-*.parquet"} for split in splits]
        if files:
            found.append({"config_name": config, "data_files": files})
    if found:
        found[0]["default"] = True
    head = {
        "license": licence[0],
        **({"license_name": licence[1]} if licence[0] == "other" else {}),
        "size_categories": [size_category(sum(count["inputs"] for count in counts.values()))],
        "task_categories": ["image-to-text", "text-to-image"],
        "tags": ["preference", "cycle-consistency", "image-text", "reward-model", "dpo"],
        "configs": found,
        OWN: {"rows": counts, **({"pairs": rule.model_dump(mode="json")} if rule else {})},
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows: n<1K, 1K<n<10K, ..., n>1T."""
    if rows < 1000:
        return "n<1K"
    power = len(str(rows)) - 1
    return f"{WORDS[power]}<n<{WORDS[power + 1]}" if power + 1 in WORDS else "n>1T"


def _rankings(cycle: Cycle, models: list[str]) -> dict[str, Any]:
    from datasets import ClassLabel, List, Value

    text, number, count = Value("string"), Value("float64"), Value("int64")
    candidate = {
        "generation_id": text,
        **_content(cycle.candidate),
        "model": ClassLabel(names=models),
        "models": List(text),
        "sample_index": count,
        "seed": count,
        "fingerprint": text,
        "score": number,
        "spread": number,
        "n": count,
        "scores": List(dict(zip(SCORE_FIELDS, (text, number, number, count), strict=True))),
        "reconstruction_ids": List(text),
        "truncated": Value("bool"),
        "code_version": text,
    }
    input_ = _content(cycle.input) if cycle.input == "image" else {"prompt": text}
    return {"input_id": text, "source": text, "group": text, **input_, "candidates": List(candidate)}


def _pairs(cycle: Cycle) -> dict[str, Any]:
    """Texts stand in each pair, since parquet stores equal ones once. Images do not: `row` is the input's place among
    the rankings of the split, and `chosen_index` and `rejected_index` are places among its candidates."""
    from datasets import List, Value

    text, number, place = Value("string"), Value("float64"), Value("int64")
    contents = ("chosen", "rejected") if cycle.candidate == "text" else ("prompt",)
    ids = ("metric", "pair_id", "input_id", "chosen_id", "rejected_id")
    return {
        **dict.fromkeys(contents, text),
        "margin": number,
        **dict.fromkeys(("chosen_model", "rejected_model"), text),
        **dict.fromkeys(("chosen_score", "rejected_score"), number),
        **dict.fromkeys(("chosen_models", "rejected_models"), List(text)),
        **dict.fromkeys(ids, text),
        **dict.fromkeys(("row", "chosen_index", "rejected_index"), place),
    }


def _reconstructions(cycle: Cycle) -> dict[str, Any]:
    from datasets import List, Value

    text, count = Value("string"), Value("int64")
    return {
        **dict.fromkeys(("reconstruction_id", "input_id", "candidate_id"), text),
        **_content(cycle.input),
        "model": text,
        "sample_index": count,
        "seed": count,
        "fingerprint": text,
        "scores": List({"metric": text, "value": Value("float64")}),
        "truncated": Value("bool"),
        "code_version": text,
    }


def _content(modality: Modality) -> dict[str, Any]:
    from datasets import Image, Value

    return {"text": Value("string")} if modality == "text" else {"image": Image()}


def _leaves(name: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{name}.{field.name}", field.type)]
    if pa.types.is_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    return [(name, kind)]


PICTURES = "pictures"
