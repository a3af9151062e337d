"""Captions are cleaned alike, whatever made them; `PROCESSING` in schemas/specs.py versions this."""

import re

# What a tokenizer may leave behind: special tokens as markup, and a prompt style's own words.
MARKUP = re.compile(r"</?s>|<\|[^|>]*\|>|<[A-Za-z_]+\d*>|\[(?:CLS|SEP|PAD)\]")


def clean(text: str) -> str:
    """A caption without leftover markup, its whitespace collapsed."""
    return " ".join(MARKUP.sub(" ", text).split())
