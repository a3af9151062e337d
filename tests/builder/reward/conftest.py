"""A captioner of a real, tiny architecture with random weights, and dataset folders."""

import itertools
from pathlib import Path

import datasets
import pytest
import torch
from plain_colours import COLOURS, make_rows, write_dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "plain", "shade", "of", *COLOURS)


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_apart(tmp_path_factory):
    """Keep what `load_dataset` prepares out of the user's cache, and its progress bars out of the log."""
    before = datasets.config.HF_DATASETS_CACHE, torch.get_num_threads()
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # two threads of a model this small spend their time waiting for each other
    yield
    datasets.config.HF_DATASETS_CACHE = before[0]
    torch.set_num_threads(before[1])
    datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def captioner(tmp_path_factory) -> Path:
    """A folder with a tiny BlipForConditionalGeneration and its processor."""
    folder = tmp_path_factory.mktemp("captioner")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
    )
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), fast).save_pretrained(folder)
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 2}
    text |= {"eos_token_id": 3, "sep_token_id": 3, **width}
    vision = {"image_size": 16, "patch_size": 8, "initializer_range": 0.02, **width}
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Write a dataset folder: `build(cycle, train=, validation=, test=, edit=function of the rows)`."""
    # Not in the test's own folder, which many tests train into.
    numbers, folder = itertools.count(), tmp_path_factory.mktemp("datasets")

    def build(cycle: str, edit=None, **sizes) -> Path:
        rows = make_rows(cycle, **sizes)
        if edit is not None:
            edit(rows)
        return write_dataset(folder / f"dataset-{next(numbers)}", cycle, rows)

    return build
