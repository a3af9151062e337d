"""The cleaning of captions, the same for every captioner; `PROCESSING` in schemas/specs.py is its version."""

import re

# Text that a tokenizer may leave in a caption: special tokens as markup, and words of the prompt style.
MARKUP = re.compile(r"</?s>|<\|[^|>]*\|>|<[A-Za-z_]+\d*>|\[(?:CLS|SEP|PAD)\]")


def clean(text: str) -> str:
    """A caption without leftover markup, its whitespace collapsed."""
    return " ".join(MARKUP.sub(" ", text).split())
