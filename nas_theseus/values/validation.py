"""Validate settings from plain values, and report all mistakes together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_theseus.errors import SpaceError
from nas_theseus.storage.json_files import parse_json

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Epochs = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=Settings)


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Settings from plain values.

    Raises:
        SpaceError: values are invalid; the message lists all of them with the settings' names.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise SpaceError(where, mistakes_of(error)) from error


def mistakes_of(error: ValidationError) -> list[str]:
    """A pydantic error as one line per mistake."""
    lines = []
    for item in error.errors():
        setting = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
        if item["type"] == "extra_forbidden":
            known = ", ".join(_fields(error.title, item["loc"][:-1]))
            message, given = f"unknown setting; available: {known}", ""
        lines.append(f"{setting}: {message}{given}")
    return lines


def _fields(title: str, inside: Sequence[int | str]) -> Collection[str]:
    """Names of the settings of a class, or of the settings in one of its fields."""
    model = next(kind for kind in _kinds(Settings) if kind.__name__ == title)
    for name in inside:
        held = model.model_fields[str(name)].annotation
        if not (isinstance(held, type) and issubclass(held, Settings)):
            break
        model = held
    return model.model_fields


def _kinds(kind: type[Settings]) -> Iterator[type[Settings]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def assigned(recipe: Model, assignments: Sequence[str], where: str) -> Model:
    """Settings of any kind with some of them changed.

    Args:
        assignments: such as ``epochs=1``; values are parsed as JSON if possible, else as text.
        where: name of the settings in messages.

    Raises:
        SpaceError: assignments are invalid; the message lists all mistakes.
    """
    model = type(recipe)
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = (piece.strip() for piece in text.partition("="))
        if not equals:
            mistakes.append(f"{text!r} must read name=value, such as epochs=1")
        elif name not in model.model_fields:
            mistakes.append(f"{name}: unknown setting; available: {', '.join(model.model_fields)}")
        elif name in values:
            mistakes.append(f"{name}: given twice, {values[name]!r} and {value!r}")
        else:
            values[name] = _json_or_text(value)
    try:
        found = validated(model, {**recipe.model_dump(), **values}, where)
    except SpaceError as error:
        raise SpaceError(where, [*mistakes, *error.mistakes]) from error
    if mistakes:
        raise SpaceError(where, mistakes)
    return found


def _json_or_text(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text
