"""Tokenizers of the world's few dozen words, in the classes that the real pipelines and processors load."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, CLIPTokenizer, PreTrainedTokenizerFast, T5TokenizerFast

from cyclepref.builder.shapeworld.grammar import WORDS

PROMPT_TOKENS = 16  # at most 12 words, start and end tokens, and room for two more
_WORDS = tuple(dict.fromkeys(WORDS))


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with one token per word, prompts cut and padded to 16; letters are tokens too, for other
    words."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = _merges(_WORDS)
    tokens = ["<|startoftext|>", "<|endoftext|>", "<unk>", *letters, *(letter + "</w>" for letter in letters)]
    ids = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *map("".join, merges)]))}
    return CLIPTokenizer(vocab=ids, merges=merges, unk_token="<unk>", model_max_length=PROMPT_TOKENS)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one token."""
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for parts in split for pair in itertools.pairwise(parts)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = [_merged(parts, best) for parts in split]
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def t5_tokenizer() -> T5TokenizerFast:
    """A T5 tokenizer whose pieces are whole words, prompts cut and padded to 16."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    pieces = [("\u2581" + word, -1.0) for word in _WORDS]
    return T5TokenizerFast(vocab=[*special, *pieces], extra_ids=0, model_max_length=PROMPT_TOKENS)


def bert_tokenizer() -> BertTokenizer:
    """A BERT tokenizer whose word pieces are whole words, for Blip."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {token: i for i, token in enumerate([*special, *_WORDS])}
    return BertTokenizer(vocab=ids, model_max_length=32)


def llama_tokenizer(question: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with the tokens that a Llava prompt needs; `question` adds the words of its question."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:"]
    ids = {token: i for i, token in enumerate(dict.fromkeys([*special, *_WORDS, *question.split()]))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )
    return tokenizer
