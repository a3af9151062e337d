"""Refuses models whose files lack weights or hold weights that the model has no place for; the error names them.

Without this, transformers and diffusers only warn, and fill missing weights with random numbers that differ in each
process. The libraries know best what was missing, since they rename the tensors of older files, join tied ones and
unpack quantised ones. So every `from_pretrained` is asked for its report, also those that load the parts of a pipeline
or of a sentence-transformers model.
"""

import contextlib
import importlib
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# Tensors that may be missing, since no output depends on them.
UNREAD = {
    r"(^|\.)num_batches_tracked$": "a counter of training batches",
}
# Tensors that files may have in addition: older versions stored these tables, and the model now computes them.
COMPUTED = {
    r"(^|\.)position_ids$": "0, 1, 2, ...",
    r"(^|\.)inv_freq$": "the frequencies of rotary position embeddings",
    r"(^|\.)attn\.(masked_)?bias$": "the causal mask of GPT-2's line",
    r"(^|\.)relative_position_index$": "places within the windows of Swin's line",
    r"(^|\.)num_batches_tracked$": "a counter of training batches",
}
# The most tensor names of one kind that a message shows.
SHOWN = 3
# How transformers marks the rows of the report that it logs after loading.
REPORTED = re.compile(r"^(\S+)\s*\|\s*(?:MISSING|MISMATCH|CONVERSION)", re.MULTILINE)


@dataclass
class Difference:
    """How a file's tensors differ from those of the model that reads them. `part` names the model; `total` is how many
    tensors it has; `reshaped` has the shape in the file and the model's, as text, by name."""

    part: str
    total: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        shapes = [f"{name} ({shapes})" for name, shapes in sorted(self.reshaped.items())]
        said = [
            f"has no weights for {_few(self.missing)} ({len(self.missing)} of {self.total} tensors)",
            f"has weights of another shape for {_few(shapes)} ({len(shapes)} of {self.total} tensors)",
            f"has no place for {_few(self.unexpected)} ({len(self.unexpected)} in its files)",
        ]
        true = [self.missing, self.reshaped, self.unexpected]
        return f"{self.part} " + " and ".join(text for text, names in zip(said, true, strict=True) if names)


@dataclass
class Watched:
    """The result of the loads within `watched`: differences, and the part whose load raised an error."""

    differences: list[Difference] = field(default_factory=list)
    failed: str | None = None


@contextlib.contextmanager
def watched(root: str | None, leave_out: Iterable[str] = ()) -> Iterator[Watched]:
    """Collect, for every model that is loaded in this block, the weights that its files lack and those that it has no
    place for.

    `root` is where the whole model lies: its components are named by their place below it. `leave_out` names parts
    (the first component of their tensors' names) that may be missing whole, since they are not used. Only libraries
    that are imported before the block are watched.
    """
    found = Watched()
    with _lock, contextlib.ExitStack() as stack:
        reports = stack.enter_context(_reports())
        note = _Note(found, root, tuple(leave_out), reports)
        for kind in (imported("transformers", "PreTrainedModel"), imported("diffusers", "ModelMixin")):
            if kind is not None:
                stack.enter_context(_replaced(kind, "from_pretrained", note.load))
        if peft := sys.modules.get("peft"):
            stack.enter_context(_replaced(peft.PeftModel, "load_adapter", note.adapt))
        yield found


def difference(part: str, model: dict[str, torch.Tensor], file: dict[str, torch.Tensor]) -> Difference:
    """How the tensors of a file differ from those of a module's state_dict, by name and shape."""
    shapes = {
        name: f"{_shape(file[name].shape)} in the file, {_shape(model[name].shape)} in the model"
        for name in model.keys() & file.keys()
        if file[name].shape != model[name].shape
    }
    return Difference(part, len(model), sorted(model.keys() - file.keys()), sorted(file.keys() - model.keys()), shapes)


def imported(library: str, name: str) -> Any:
    """What a library calls `name`; None if the library is not imported: each costs seconds, and a model that does
    without one is not made to wait for it."""
    # Imported once more, which waits for another thread that is in the middle of it.
    return getattr(importlib.import_module(library), name) if library in sys.modules else None


# ---- asking the libraries --------------------------------------------------------------------------------------

# Replacing a method of a class affects every thread, so only one block at a time may do it.
_lock = threading.RLock()


class _Note:
    """Replaces the libraries' loading methods and records their reports."""

    def __init__(self, found: Watched, root: str | None, leave_out: tuple[str, ...], reports: list[str]):
        self.found, self.root, self.leave_out, self.reports = found, root, leave_out, reports

    def load(self, original: Callable[..., Any], cls: type, *args: Any, **kwargs: Any) -> Any:
        """A class's `from_pretrained`; its report is recorded."""
        part, asked = _part(cls, args[0] if args else None, self.root), kwargs.get("output_loading_info")
        before = len(self.reports)
        # When asked for its report, a library names tensors of another shape instead of raising an error.
        ask = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            model, info = original(cls, *args, **{**kwargs, **ask})
        except Exception as error:
            self.found.failed = self.found.failed or part
            if rows := REPORTED.findall("\n".join(self.reports[before:])):
                raise ValueError(f"its weights do not fit: {_few(rows)} ({len(rows)} tensors)") from error
            raise
        said = _account(part, model, info, self.leave_out)
        if getattr(model, "_hf_peft_config_loaded", False):
            # This report covers the adapter only; what the model under it lacks is in the logged report.
            said.missing += sorted(set(REPORTED.findall("\n".join(self.reports[before:]))) - set(said.missing))
        if said:
            self.found.differences.append(said)
        return (model, info) if asked else model

    def adapt(self, original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        """A PeftModel's `load_adapter`; its report is recorded."""
        result = original(model, *args, **kwargs)
        if result.missing_keys:
            total = sum("lora_" in name for name in model.state_dict())
            self.found.differences.append(Difference("its adapter", total, sorted(result.missing_keys)))
        return result


@contextlib.contextmanager
def _replaced(owner: type, name: str, by: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of a class, within this block, by one that gets the original as its first argument."""
    before = owner.__dict__[name]
    original = getattr(before, "__func__", before)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return by(original, self, *args, **kwargs)

    setattr(owner, name, classmethod(method) if isinstance(before, classmethod) else method)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _reports() -> Iterator[list[str]]:
    """Collect the reports that transformers logs after loading, and keep them out of the log."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.modeling_utils")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _account(part: str, model: torch.nn.Module, info: dict[str, Any], leave_out: tuple[str, ...]) -> Difference:
    """A library's report of a load, without differences that are known to be harmless."""
    tensors = model.state_dict()
    reshaped = {
        name: f"{_shape(in_file)} in the file, {_shape(in_model)} in the model"
        for name, in_file, in_model in info.get("mismatched_keys", ())
    }
    missing, unexpected = set(info.get("missing_keys", ())), set(info.get("unexpected_keys", ()))
    mixin = imported("diffusers", "ModelMixin")
    if mixin is not None and isinstance(model, mixin):
        # It believes the index of a sharded file; what a shard then did not have has no memory yet.
        missing |= {name for name, tensor in tensors.items() if tensor.is_meta}
    if getattr(model, "hf_quantizer", None) is not None:
        # Tensors that a quantiser adds (scales, statistics) are not checked, only those of the architecture.
        missing, unexpected = missing & _plain_names(model), set()
    for name in leave_out:
        whole = {tensor for tensor in tensors if tensor.split(".")[0] == name}
        missing -= whole if whole <= missing else set()
    missing = {name for name in missing - reshaped.keys() if not _known(name, UNREAD)}
    modules = {name for name, _ in model.named_modules()}
    unexpected = {name for name in unexpected if not _known(name, COMPUTED) and _in_a_layer(name, model, modules)}
    return Difference(part, len(tensors), sorted(missing), sorted(unexpected), reshaped)


def _plain_names(model: torch.nn.Module) -> set[str]:
    """The names of a model's tensors without quantisation."""
    with torch.device("meta"):
        kind = type(model)
        plain = kind.from_config(model.config) if hasattr(kind, "from_config") else kind(model.config)
    return set(plain.state_dict())


def _in_a_layer(name: str, model: torch.nn.Module, modules: set[str]) -> bool:
    """Whether a tensor belongs to a stack of layers that the model has, or to one layer more: then the config is not
    that of the file. A part that the model's class leaves out as a whole (another task's head, CLIP's vision half, a
    pooling layer) is not a fault."""
    pieces = name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.").split(".")
    for start in (name.split("."), pieces):
        at = max(at for at in range(len(start) + 1) if ".".join(start[:at]) in modules)
        if any(piece.isdigit() for piece in start[: at + 1]):
            return True
    return False


def _part(cls: type, where: Any, root: str | None) -> str:
    """A model's name in a message: its component in the pipeline, and its class."""
    folder = Path(str(where)).name
    inner = where is not None and root is not None and Path(str(where)) != Path(root) and Path(str(where)).is_dir()
    return f"{folder} ({cls.__name__})" if inner and not re.fullmatch(r"[0-9a-f]{40}", folder) else cls.__name__


def _known(name: str, patterns: dict[str, str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
