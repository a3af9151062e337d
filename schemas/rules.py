"""Sections of settings, checked so that all faults are reported at once, including rules that join several settings."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from cyclepref.schemas.wording import missing, unknown, worded

Place = tuple[int | str, ...]


class Fault(NamedTuple):
    """What is wrong, and the keys that lead to the setting from the section that was checked."""

    at: Place
    message: str


class Broken(ValueError):
    """The rules that a section breaks, as an error for pydantic."""

    def __init__(self, faults: list[Fault]):
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


def rule(*needs: str) -> Callable[[Callable], Callable]:
    """Mark a method of a section that yields a Fault for each breach of a rule. It is called if the settings that it
    `needs` ("mix", or "pairs.mix" in a nested section) are valid by themselves, even if others are wrong."""

    def mark(method: Callable) -> Callable:
        method.needs = set(needs)
        return method

    return mark


class Section(BaseModel):
    """A section of a file of settings: unknown keys are errors, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> "Section":
        if faults := list(self.broken(set(type(self).model_fields))):
            raise Broken(faults)
        return self

    def broken(self, valid: set[str]) -> Iterator[Fault]:
        """The broken rules among those that need only `valid` settings."""
        for kind in type(self).__mro__:
            for method in vars(kind).values():
                needs = getattr(method, "needs", None)
                if needs and all(need in valid or need.split(".")[0] in valid for need in needs):
                    yield from method(self)


def check(kind: type[BaseModel], content: Any) -> tuple[Any, list[Fault]]:
    """`content` as a section, or None if it is not one, and everything that is wrong with it."""
    try:
        return kind.model_validate(content), []
    except ValidationError as error:
        problems = error.errors()
    # A wrong value may be a secret that was put into the wrong setting.
    hidden = bool(kind.model_config.get("hide_input_in_errors"))
    faults = [fault for problem in problems for fault in _faults(kind, problem, hidden)]
    return None, [*faults, *_rules_left(kind, content, [problem["loc"] for problem in problems], ())]


def salvage(kind: type[BaseModel], content: Any) -> Any:
    """A section made of its valid settings only, or None if a required one is not valid."""
    if isinstance(content, str) and hasattr(kind, "of_name"):
        content = kind.of_name(content)
    if not isinstance(content, dict):
        return None
    values = _valid_values(kind, content, kind.model_fields)
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    return None if set(needed) - values.keys() else kind.model_construct(**values)


def _faults(kind: type[BaseModel], problem: dict[str, Any], hidden: bool) -> Iterator[Fault]:
    """One of pydantic's errors in our words; a `Broken` as its faults, unchanged."""
    ours = problem.get("ctx", {}).get("error")
    at, section = _section_at(kind, problem["loc"])
    if isinstance(ours, Broken):
        yield from (Fault((*at, *fault.at), fault.message) for fault in ours.faults)
        return
    above = _section_at(kind, problem["loc"][:-1])[1]
    if problem["type"] == "extra_forbidden" and above:
        yield Fault(at, unknown(str(at[-1]), list(above.model_fields)))
    elif problem["type"] == "missing" and above:
        yield Fault(at, missing(above.model_fields[str(at[-1])].description))
    else:
        names = list(section.model_fields) if section else []
        yield Fault(at, worded(problem, names, hidden))


def _section_at(kind: type[BaseModel], loc: Place) -> tuple[Place, type[BaseModel] | None]:
    """The keys that lead to a place, without the union tags that pydantic puts between them, and the kind of section
    there."""
    at: list[int | str] = []
    here: type[BaseModel] | None = kind
    tagged: dict[str, type[BaseModel]] = {}
    for step in loc:
        if step in tagged and here is None:
            here, tagged = tagged[str(step)], {}
            continue
        at.append(step)
        if isinstance(step, int) or here is None:
            continue
        field = here.model_fields.get(step)
        sections = _sections_in(field.annotation) if field else []
        here = sections[0] if len(sections) == 1 else None
        tagged = _tags(field, sections) if field and len(sections) > 1 else {}
    return tuple(at), here


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections_in(each)]


def _tags(field: FieldInfo, sections: list[type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """The sections of a union, by the value of their discriminator."""
    key = str(field.discriminator)
    return {tag: section for section in sections for tag in get_args(section.model_fields[key].annotation)}


def _rules_left(kind: type[BaseModel], content: Any, bad: list[Place], at: Place) -> Iterator[Fault]:
    """Broken rules that pydantic did not check because another setting of their section is wrong."""
    if not isinstance(content, dict) or not any(len(loc) > len(at) and loc[: len(at)] == at for loc in bad):
        return
    valid = _valid_names(kind, bad, at)
    values = _valid_values(kind, content, valid)
    for name, field in kind.model_fields.items():
        sections = _sections_in(field.annotation)
        if len(sections) != 1 or name not in content:
            continue
        yield from _rules_left(sections[0], content[name], bad, (*at, name))
        if name not in valid and isinstance(content[name], dict):
            within = _valid_names(sections[0], bad, (*at, name))
            values[name] = sections[0].model_construct(**_valid_values(sections[0], content[name], within))
            valid |= {f"{name}.{each}" for each in within}
    if issubclass(kind, Section):
        broken = kind.model_construct(**values).broken(valid)
        yield from (Fault((*at, *fault.at), fault.message) for fault in broken)


def _valid_names(kind: type[BaseModel], bad: list[Place], at: Place) -> set[str]:
    return {name for name in kind.model_fields if not any(loc[: len(at) + 1] == (*at, name) for loc in bad)}


def _valid_values(kind: type[BaseModel], content: dict[str, Any], names: Any) -> dict[str, Any]:
    values = {}
    for name in names:
        field = kind.model_fields[name]
        try:
            if name in content:
                values[name] = TypeAdapter(Annotated[field.annotation, field]).validate_python(content[name])
        except ValidationError:
            continue
    return values
