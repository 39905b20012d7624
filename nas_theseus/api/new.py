"""Write a first space file from one of the package's templates."""

from __future__ import annotations

import ast
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.values.ids import SEARCH_NAME
from nas_theseus.values.registers import SOURCES, TEMPLATES

Filled: TypeAlias = str | Path

_LAST = "\n\n\nMEMBER = space\n"
_OWN_NAME = "my_space"


def new_space(
    path: str | Path, template: str = "digits", constants: Mapping[str, Filled] | None = None
) -> Path:
    """Write a first space file: a template of the package with some of its constants filled in.

    Args:
        path: the file, which must not exist.
        template: name of a template.
        constants: values of constants at the top of the template, such as
            ``{"MODEL": "timm:convnext_tiny"}``. Paths are written absolute, since workers have
            another current folder.

    Returns:
        The file.

    Raises:
        UnknownNameError: there is no such template.
        SpaceError: lists what cannot be: the file's name, a constant that the template lacks, a
            folder that is missing, an unknown network. Nothing is written.
        StorageError: the file exists, or cannot be written.
    """
    file = Path(path)
    text = template_text(template)
    given = {name: _absolute(value) for name, value in (constants or {}).items()}
    mistakes = [*_of_name(file), *_of_constants(text, template, given)]
    if mistakes:
        raise SpaceError(f"new {file}", mistakes)
    text = filled(text.replace(_OWN_NAME, file.stem), given)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise StorageError(
            f"{file} exists, and nothing is overwritten; choose another name, or move it away"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written: {error.strerror or error}; choose another folder, or "
            "make this one"
        ) from error
    return file


def template_text(name: str) -> str:
    """The space file of a template, with its constants as they are.

    Raises:
        UnknownNameError: there is no such template.
    """
    if name not in TEMPLATES.shipped:
        _ = TEMPLATES[name]  # raises with all names
    folder = importlib.resources.files(__package__) / "templates"
    text = (folder / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return text.removesuffix(_LAST) + "\n"


def constants_of(text: str) -> dict[str, ast.expr]:
    """Values of the constants at the top of a space file, by name."""
    found: dict[str, ast.expr] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id.isupper():
            found[target.id] = value
    return found


def filled(text: str, constants: Mapping[str, Filled]) -> str:
    """A space file with other values of some of its constants; the rest of each line stays."""
    places = constants_of(text)
    lines = text.splitlines(keepends=True)
    for name, value in constants.items():
        place = places[name]
        # Columns count bytes.
        line = lines[place.lineno - 1].encode()
        new = line[: place.col_offset] + _written(value).encode() + line[place.end_col_offset :]
        lines[place.lineno - 1] = new.decode()
    return "".join(lines)


def _absolute(value: Filled) -> Filled:
    """A path, or the folder of a network, as workers with another current folder find it."""
    if isinstance(value, Path):
        return value.expanduser().absolute()
    source, _, folder = value.partition(":")
    if source == "hf" and folder:
        return f"hf:{Path(folder).expanduser().absolute()}"
    return value


def _written(value: Filled) -> str:
    if isinstance(value, Path):
        return f"Path({json.dumps(str(value), ensure_ascii=False)})"
    return json.dumps(value, ensure_ascii=False)


def _of_name(file: Path) -> list[str]:
    mistakes = []
    if file.suffix != ".py":
        mistakes.append(f"a space is a Python file; call it {file.stem or 'my_space'}.py")
    elif not SEARCH_NAME.fullmatch(file.stem):
        mistakes.append(
            f"{file.stem!r} cannot be the name of a search; use letters, digits, '.', '_' and '-'"
        )
    return mistakes


def _of_constants(text: str, template: str, given: Mapping[str, Filled]) -> list[str]:
    known = constants_of(text)
    mistakes = []
    for name, value in given.items():
        if name not in known:
            others = [t for t in TEMPLATES.shipped if name in constants_of(template_text(t))]
            mistakes.append(
                f"template {template!r} has no {name}; those that have one: "
                f"{', '.join(others) or 'none'}"
            )
        elif isinstance(value, Path) and not value.exists():
            mistakes.append(f"{name}: there is no {value}; give one that exists")
        elif isinstance(value, str) and name == "MODEL":
            mistakes += _of_network(value)
    return mistakes


def _of_network(model: str) -> list[str]:
    """What is wrong with a network such as ``torchvision:resnet18``; loads no weights."""
    from nas_theseus.errors import GuideError

    source, _, name = model.partition(":")
    if source not in SOURCES or not name:
        known = " or ".join(f"{one}:{'FOLDER' if one == 'hf' else 'NAME'}" for one in SOURCES)
        return [f"{model!r} is no network: use {known}"]
    try:
        SOURCES[source](name, None, None)
    except GuideError as error:
        return [str(error)]
    return []
