"""How much of a prompt the text encoders of a pipeline read."""

from typing import Any

from transformers import PreTrainedTokenizerBase


class Reader:
    """What one tokenizer cut in the current batch.

    A pipeline wraps its prompts in templates and sets limits of its own: 77 tokens for CLIP, `max_sequence_length`
    for T5. So its tokenizers are watched while it asks them, instead of its rules being written down again here.
    """

    def __init__(self, name: str):
        self.name = name
        self.begin(0)

    def begin(self, count: int) -> None:
        """Start a batch of `count` prompts."""
        self.count, self.asked, self._singles = count, False, 0
        self._cut: set[int] = set()

    def cut(self, row: int) -> bool:
        """Whether this tokenizer cut a text of a row: its prompt, or its negative prompt."""
        return row in self._cut

    def note(self, cuts: list[bool]) -> None:
        """Note the texts of one call: a batch of them, or one row's after the other's."""
        self.asked = True
        if self.count and len(cuts) % self.count == 0:
            self._cut |= {at % self.count for at, cut in enumerate(cuts) if cut}
        elif len(cuts) == 1 and self.count:
            self._cut |= {self._singles % self.count} if cuts[0] else set()
            self._singles += 1


def watch(name: str, tokenizer: PreTrainedTokenizerBase) -> Reader:
    """Have a reader told of every text that a tokenizer cuts.

    The tokenizer stays the object that it is, and of its class, since pipelines ask for both.
    """
    reader = Reader(name)
    plain = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("truncation") and text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            limit = kwargs.get("max_length") or self.model_max_length
            special = kwargs.get("add_special_tokens", True)
            whole = plain.__call__(self, texts, add_special_tokens=special, truncation=False).input_ids
            reader.note([len(ids) > limit for ids in whole])
        return plain.__call__(self, text, *args, **kwargs)

    tokenizer.__class__ = type(plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__})
    return reader
