"""Files of settings, read with the line and column of every setting, so that one error can name every fault."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cyclepref.schemas.errors import CyclePrefError, visible
from cyclepref.schemas.rules import Fault, Place

# Aliases can make a file of a few lines expand to more than fits into memory.
MOST_NODES = 100_000


class Settings:
    """The mapping of a YAML file after `changes` (those of `--set`), and the line and column of each setting."""

    def __init__(self, where: str, content: dict[str, Any], root: Node | None = None):
        self.where = where
        self.content = content
        self.faults: list[Fault] = []
        self._root = root
        self._changes: dict[Place, str] = {}

    def change(self, changes: Mapping[str, Any]) -> "Settings":
        """Replace values of the file, each named by its path ("pairs.min_margin", "forward.0.samples")."""
        for name, value in changes.items():
            at = tuple(int(step) if step.isdecimal() else step for step in name.split("."))
            self._changes[at] = name
            try:
                self.content = _changed(self.content, at, value)
            except LookupError as error:
                self.faults.append(Fault(at, str(error.args[0])))
        return self

    def refuse(self, faults: list[Fault], error: type[CyclePrefError], what: str) -> None:
        """Raise an error that lists all faults in the file's order; do nothing if there is none."""
        if lines := self.told(faults):
            raise error("\n".join([f"{self.where} is not {what}:", *(f"  - {line}" for line in lines)]))

    def told(self, faults: list[Fault]) -> list[str]:
        """Each fault of the file or of its content as a line with its place, in the file's order."""
        faults = [*self.faults, *faults]
        placed = sorted(((self._mark(fault.at), fault) for fault in faults), key=lambda each: each[0])
        lines = [f"{self._place(mark, fault.at)}{_name(fault)}{fault.message}" for mark, fault in placed]
        # A line break in a name or path would look like the next line of our message.
        return list(dict.fromkeys(visible(line, keep="") for line in lines))

    def _place(self, mark: tuple[int, int], at: Place) -> str:
        changed = [name for loc, name in self._changes.items() if at[: len(loc)] == loc or loc[: len(at)] == at]
        if changed and at:
            return f"--set {changed[-1]}: "
        return f"line {mark[0]}, column {mark[1]}: " if self._root else ""

    def _mark(self, at: Place) -> tuple[int, int]:
        """Line and column, from 1, of a setting's name or a list's entry; for a missing one, of the section that lacks
        it."""
        node, mark = self._root, self._root and self._root.start_mark
        for step in at:
            found = _child(node, step)
            if found is None:
                break
            name, node = found
            mark = (name or node).start_mark
        return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def read_settings(path: Path, error: type[CyclePrefError], examples: str) -> Settings:
    """The mapping in a YAML file; `examples` is the command that lists some.

    Raises:
        CyclePrefError: of the kind `error`, if the file does not exist, is not YAML or is not a mapping.
    """
    if not path.is_file():
        raise error(f"no recipe at {path}: give the path of a YAML file; `{examples}` lists those that come with it")
    try:
        root, content, twice = _read(path.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        told = ", ".join(filter(None, (problem.context, problem.problem)))
        raise error(f"{path} is not YAML: {at}{told}") from problem
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as problem:
        if isinstance(problem, UnicodeDecodeError):
            raise error(f"{path} is not UTF-8 text (at byte {problem.start:,}): save it as UTF-8") from problem
        told = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        raise error(f"{path} is not YAML: {told}") from problem
    if not isinstance(content, dict):
        raise error(f"{path} must hold a mapping of settings, got {'nothing' if content is None else _kind(content)}")
    settings = Settings(str(path), content, root)
    settings.faults += twice
    return settings


def _read(text: str) -> tuple[Node | None, Any, list[Fault]]:
    """The nodes of a YAML text, their content, and a fault for each repeated key."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, None, []
        if _size(root, {}) > MOST_NODES:
            raise ValueError(f"its aliases make more than {MOST_NODES:,} settings of it")
        twice = list(_twice(root, ()))  # before merges ("<<") bring in keys that may be repeated
        return root, loader.construct_document(root), twice
    finally:
        loader.dispose()


def _size(node: Node, known: dict[int, int]) -> int:
    """How many nodes there are, each alias counted again."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # for an alias that contains itself, met while it is being counted
        known[id(node)] = 1 + sum(_size(child, known) for child in _children(node))
    return known[id(node)]


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        yield from (part for pair in node.value for part in pair)
    elif isinstance(node, SequenceNode):
        yield from node.value


def _twice(node: Node | None, at: Place) -> Iterator[Fault]:
    """Keys that a mapping has more than once: YAML would take the last one in silence."""
    if isinstance(node, SequenceNode):
        for number, child in enumerate(node.value):
            yield from _twice(child, (*at, number))
    if not isinstance(node, MappingNode):
        return
    first: dict[str, Node] = {}
    for key, child in node.value:
        if not isinstance(key, ScalarNode):
            continue
        before = first.setdefault(key.value, key)
        yield from _twice(child, (*at, key.value))
        # A merge ("<<") puts the other section's keys before the section's own, which win; they are no repetition.
        if before is not key and _within(node, before) and _within(node, key):
            line = before.start_mark.line + 1
            yield Fault((*at, key.value), f"is there twice (first in line {line}): keep one")


def _within(node: Node, key: Node) -> bool:
    return node.start_mark.index <= key.start_mark.index < node.end_mark.index


def _child(node: Node | None, step: int | str) -> tuple[Node | None, Node] | None:
    """The key node and value node at a step; of repeated keys the last, whose value YAML keeps."""
    if isinstance(node, MappingNode):
        found = [(key, value) for key, value in node.value if isinstance(key, ScalarNode) and key.value == str(step)]
        return found[-1] if found else None
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None


def _changed(content: Any, at: Place, value: Any) -> Any:
    """Content with one value replaced; other places that share it through an alias keep theirs."""
    if not at:
        return value
    step, *rest = at
    if isinstance(content, list):
        if not isinstance(step, int) or step >= len(content):
            raise LookupError(f"is not there: the list has {len(content)} entries, numbered from 0")
        return [*content[:step], _changed(content[step], tuple(rest), value), *content[step + 1 :]]
    if content is not None and not isinstance(content, dict):
        raise LookupError(f"is not there: the recipe has {_kind(content)} in its place; set that as a whole")
    content = content or {}
    return {**content, str(step): _changed(content.get(str(step)), tuple(rest), value)}


def _name(fault: Fault) -> str:
    return f"{'.'.join(map(str, fault.at))}: " if fault.at else ""


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", dict: "a section"}.get(type(value), "a number")
