"""What tiny models are made of: tokenizers of a few words or letters, and configurations of two layers."""

from typing import Any

import transformers as t
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "a", "red", "blue", "green", "large", "small", "cat", "dog", "circle", "square", "on", "under", "the", "of", "one",
    "two", "three", "sky", "grass", "and", "near", "with",
]  # fmt: skip
QUESTION_WORDS = [
    "Write", "detailed", "description", "given", "image", ".", "Question:", "Answer:", "caption", "en", "What", "does",
    "describe", "?",
]  # fmt: skip
HALF = [0.5, 0.5, 0.5]


# ---- tokenizers ------------------------------------------------------------------------------------------------


def word_tokenizer(*special: str, **roles: str) -> t.PreTrainedTokenizerFast:
    """One token a word; `special` are tokens with an id of their own, `roles` what a processor asks the tokenizer for
    (image_token="<image>")."""
    basic = ["<pad>", "<unk>", "<s>", "</s>"]
    tokens = [*basic, *special, *roles.values(), *WORDS, *QUESTION_WORDS]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(tokens))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), basic, strict=True))
    names |= {role: roles.pop(role) for role in list(roles) if role in names}
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=roles, **names)
    tokenizer.add_tokens(list(special), special_tokens=True)
    return tokenizer


def bert_tokenizer() -> t.BertTokenizer:
    words = [word.lower() for word in dict.fromkeys([*WORDS, *QUESTION_WORDS])]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return t.BertTokenizer(vocab={w: i for i, w in enumerate(dict.fromkeys([*special, *words]))}, model_max_length=32)


def t5_tokenizer() -> t.T5TokenizerFast:
    """One piece a word; others are unknown."""
    words = [("\u2581" + word, -1.0) for word in [*WORDS, *QUESTION_WORDS]]
    return t.T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *words], extra_ids=0)


def t5_words() -> t.T5TokenizerFast:
    """The same with BLIP-2's token for images."""
    tokenizer = t5_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer


def clip_tokenizer() -> t.CLIPTokenizer:
    """Letters, so that a handful of words is longer than the 24 tokens that it reads."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", "<unk>", *letters, *(letter + "</w>" for letter in letters)]
    ids = {token: i for i, token in enumerate(tokens)}
    return t.CLIPTokenizer(vocab=ids, merges=[], unk_token="<unk>", model_max_length=24)


def character_tokenizer() -> t.PreTrainedTokenizerFast:
    """A token a character, for the templates that pipelines count in tokens."""
    tokens = ["<pad>", "<unk>", "<s>", "</s>", *map(chr, range(10, 127))]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    # A text begins with <s>, as Gemma's do: an empty one has something to attend to.
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return t.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def chat(image: str, before: str = "USER:", after: str = "ASSISTANT:") -> str:
    """A chat template: the image's placeholder, then the text."""
    return (
        "{% for m in messages %}" + before + " {% for c in m['content'] %}{% if c['type'] == 'image' %}" + image
        + " {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}" + after
        + "{% endif %}"
    )  # fmt: skip


# ---- parts -----------------------------------------------------------------------------------------------------


def text_config(kind: type, tokenizer: Any, **changes: Any) -> Any:
    """A decoder of two layers and 32 channels."""
    return kind(
        **{
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "head_dim": 8,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False, **changes,
        }
    )  # fmt: skip


def vision(**changes: Any) -> dict[str, Any]:
    """A vision transformer of two layers on 8x8 patches of 32x32 pixels."""
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8, **changes,
    }  # fmt: skip


def clip_images() -> t.CLIPImageProcessor:
    size = {"height": 32, "width": 32}
    return t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size, image_mean=HALF, image_std=HALF)
