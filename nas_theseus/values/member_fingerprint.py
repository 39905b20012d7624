"""Hash of a user's own similarity or schedule: its source code and its fields."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import inspect
import reprlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from nas_theseus.errors import ConversionError
from nas_theseus.values.fingerprint import source_text
from nas_theseus.values.ids import canonical_json, short_hash

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PLAIN = (bool, int, float, str, type(None))
# Types of named values that may contain settings; others, such as loggers, do not.
_HELD = (*_PLAIN, Mapping, list, tuple, set, frozenset, partial, torch.Tensor, np.ndarray)


def member_fingerprint(kind: str, name: str, member: object) -> str:
    """Eight hexadecimal digits that change with the code or the fields of a member.

    Included are the member's fields; the source code of its class and base classes; and the
    functions, classes and values of the user's files that their methods name, directly or
    indirectly. Not included are installed packages, and functions found by other means than a name.
    The result is the same in every process that loads the same files.

    Args:
        kind: "similarity" or "schedule", for the message.
        name: name of the member, for the message.
        member: an object, not a class.

    Raises:
        ConversionError: a field has a value without a description that is the same in every
            process.
    """
    taken = _Taken()
    try:
        fields = taken.value(member)
    except _IndescribableError as error:
        raise ConversionError(
            f"{kind} {name!r}: {error} has no description that is the same in every process; "
            "use numbers, text, tensors, or objects made of these instead"
        ) from error
    return short_hash([fields, sorted(taken.texts)], 8)


class _IndescribableError(Exception):
    """A value has a description that differs between processes."""


class _Taken:
    """Converts values to plain lists and text, and collects source code used by them.

    Attributes:
        texts: qualified names and source code of the user's classes and functions.
    """

    def __init__(self) -> None:
        self.texts: set[tuple[str, str]] = set()
        self._followed: set[int] = set()
        self._open: set[int] = set()

    def value(self, value: Any) -> Any:
        """A value as plain JSON data.

        Raises:
            _IndescribableError: the value cannot be converted.
        """
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, enum.Enum | Path | bytes | complex | torch.dtype | torch.device):
            return repr(value)
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            return ["tensor", str(value.dtype), list(value.shape), _digest(flat.numpy())]
        if isinstance(value, np.ndarray) and value.dtype != object:
            return ["array", str(value.dtype), list(value.shape), _digest(value)]
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, type | FunctionType):
            self._code(value)
            return value.__qualname__
        if inspect.isbuiltin(value):
            return value.__qualname__
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._open.remove(id(value))

    def _compound(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            pairs = [[self.value(key), self.value(held)] for key, held in value.items()]
            return sorted(pairs, key=canonical_json)
        if isinstance(value, list | tuple):
            return [self.value(held) for held in value]
        if isinstance(value, set | frozenset):
            return ["set", *sorted((self.value(held) for held in value), key=canonical_json)]
        if isinstance(value, partial):
            return ["partial", *map(self.value, (value.func, value.args, value.keywords))]
        if isinstance(value, MethodType):
            return [self.value(value.__self__), self.value(value.__func__)]
        held = _attributes(value)
        if held is None:
            raise _IndescribableError(f"a {type(value).__name__}")
        self._code(type(value))
        return [type(value).__qualname__, self.value(held)]

    def _code(self, made: Any) -> None:
        """Add the source code of a user's class or function, and of everything it names."""
        if isinstance(made, type):
            for kind in made.__mro__[1:]:
                self._code(kind)
        if not _is_users(sys.modules.get(made.__module__)) or id(made) in self._followed:
            return
        self._followed.add(id(made))
        functions = list(_functions(made))
        text = source_text(made) or "".join(_bytecode(each.__code__) for each in functions)
        self.texts.add((made.__qualname__, text))
        for function in functions:
            for name, named in _named(function):
                if isinstance(named, type | FunctionType):
                    self._code(named)
                elif isinstance(named, _HELD) or _is_users(sys.modules.get(type(named).__module__)):
                    self._held(f"{made.__qualname__} {name}", named)

    def _held(self, name: str, value: Any) -> None:
        """Add a value that a function names; values without a description are skipped."""
        with suppress(_IndescribableError):
            self.texts.add((name, canonical_json(self.value(value))))


def _attributes(value: Any) -> dict[str, Any] | None:
    """Fields of a dataclass, or attributes of an object; None if it has none."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not hasattr(value, "__dict__"):
        return None
    # Without cached properties, which are only present after they were read.
    return {
        name: held
        for name, held in vars(value).items()
        if not isinstance(inspect.getattr_static(type(value), name, None), cached_property)
    }


def _digest(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _is_users(module: ModuleType | None) -> bool:
    """Whether a module is a user's file: not part of this package or Python, and not installed."""
    if module is None:
        return False
    if hasattr(module, "__source__") or module.__name__ == "__main__":
        return True
    file = getattr(module, "__file__", None)
    if file is None:
        return False
    path = Path(file)
    inside = any(path.is_relative_to(folder) for folder in (_PACKAGE, *_INSTALLED))
    return not inside and "dist-packages" not in path.parts


def _functions(made: Any) -> Iterator[FunctionType]:
    """A function itself, or the methods that a class defines."""
    found = vars(made).values() if isinstance(made, type) else [made]
    for value in found:
        # Functions inside properties, cached properties, and static or class methods.
        inside = (getattr(value, name, None) for name in ("fget", "fset", "func", "__func__"))
        for each in (value, *inside):
            if isinstance(each, FunctionType) and not _is_generated(each):
                yield each


def _is_generated(function: FunctionType) -> bool:
    """Whether `dataclasses` generated a method from the fields, which are included separately."""
    files = ("<string>", dataclasses.__file__, reprlib.__file__)
    dunder = function.__name__.startswith("__") and function.__name__.endswith("__")
    return dunder and function.__code__.co_filename in files


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Values that a function names: globals, attributes of modules, and closure variables."""
    names = sorted(_names(function.__code__))
    for name in names:
        found = function.__globals__.get(name)
        if isinstance(found, ModuleType) and _is_users(found):
            held = vars(found)
            yield from ((f"{name}.{inner}", held[inner]) for inner in names if inner in held)
        elif name in function.__globals__:
            yield name, found
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the variable is not assigned yet
            yield name, cell.cell_contents


def _names(code: CodeType) -> set[str]:
    inner = (held for held in code.co_consts if isinstance(held, CodeType))
    return set(code.co_names).union(*(_names(held) for held in inner))


def _bytecode(code: CodeType) -> str:
    """A function's bytecode, if its source code is not available, as in an interactive session."""
    constants = [
        _bytecode(held) if isinstance(held, CodeType) else repr(held)
        for held in code.co_consts
        if not isinstance(held, frozenset)  # its order differs between processes
    ]
    return canonical_json([code.co_code.hex(), list(code.co_names), constants])
