"""Which prompts the tokenizers of a pipeline cut."""

from typing import Any

from transformers import PreTrainedTokenizerBase


class CutWatch:
    """Records which texts of the current batch one tokenizer cut.

    A pipeline wraps its prompts in templates and sets limits of its own: 77 tokens for CLIP, `max_sequence_length`
    for T5. So the pipeline's calls of its tokenizers are watched, instead of repeating its rules here.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, max_sequence_length: int | None):
        self.name, self._tokenizer, self._max = name, tokenizer, max_sequence_length
        self.begin([])

    def begin(self, prompts: list[str]) -> None:
        """Start a batch."""
        self._prompts, self.asked, self._singles = prompts, False, 0
        self._cut: set[int] = set()

    def cut(self, row: int) -> bool:
        """Whether this tokenizer cut a text of a row: its prompt, or its negative prompt."""
        return row in self._cut

    def note(self, lengths: list[int], limit: int) -> None:
        """Record one call: the token counts of its texts (of all rows, or of one row at a time), and how many tokens it
        keeps."""
        self.asked, count = True, len(self._prompts)
        if count and len(lengths) % count == 0:
            self._cut |= {at % count for at, length in enumerate(lengths) if length > limit}
        elif count and len(lengths) == 1:
            self._cut |= {self._singles % count} if lengths[0] > limit else set()
            self._singles += 1
        if self._max is not None and limit > self._max:
            # The limit includes a template, which the pipeline cuts off afterwards (Qwen-Image).
            bare = self._tokenizer.__class__.__base__.__call__(self._tokenizer, self._prompts, add_special_tokens=False)
            self._cut |= {row for row, ids in enumerate(bare.input_ids) if len(ids) > self._max}


def watch(name: str, tokenizer: PreTrainedTokenizerBase, max_sequence_length: int | None) -> CutWatch:
    """Attach a CutWatch to a tokenizer; it is told of every text that the tokenizer may cut.

    The tokenizer stays the same object with a subclass of its class, since pipelines check both. `max_sequence_length`
    is the argument of the pipeline's call, in tokens; None if it has no such argument.
    """
    reader = CutWatch(name, tokenizer, max_sequence_length)
    plain = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("truncation") and text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            special = kwargs.get("add_special_tokens", True)
            whole = plain.__call__(self, texts, add_special_tokens=special, truncation=False).input_ids
            reader.note([len(ids) for ids in whole], kwargs.get("max_length") or self.model_max_length)
        return plain.__call__(self, text, *args, **kwargs)

    tokenizer.__class__ = type(plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__})
    return reader
