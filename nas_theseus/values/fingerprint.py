"""Hash of a network without its weights: structure, settings and source code."""

from __future__ import annotations

import ast
import copy
import inspect
import sys
from functools import cache, partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

from nas_theseus.values.ids import short_hash

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def fingerprint(module: nn.Module, *makers: object) -> str:
    """Sixteen hexadecimal digits that change with the code or the settings of a network.

    Included are every submodule's name, class and plain attributes (stride, rate, a custom
    ``self.k``), the code of traced parts, and the source code of every class outside torch. Not
    included are functions called by these classes, and values in closures. Weights are not
    included, so the module may be on the meta device.

    Args:
        makers: classes, functions or partials that built the network; their source code is
            included.
    """
    parts = [[name, *_description(part)] for name, part in module.named_modules()]
    # Without the module's name, since that of a space file changes with any line in the file.
    texts = {
        (kind.__qualname__, source_text(kind))
        for part in module.modules()
        for kind in type(part).__mro__
        if kind.__module__.split(".")[0] not in ("torch", "builtins")
    }
    return short_hash([parts, sorted(texts), [_maker(maker) for maker in makers]], 16)


def _description(module: nn.Module) -> list[Any]:
    settings = {
        name: _plain(value)
        for name, value in vars(module).items()
        if name != "training" and not name.startswith("_") and _plain(value) is not None
    }
    code = module.code if isinstance(module, torch.fx.GraphModule) else ""
    return [type(module).__qualname__, settings, code]


def _plain(value: object) -> str | None:
    """A setting as text that is the same in every process; None if the value is not a setting."""
    if isinstance(value, tuple | list):
        inner = [_plain(item) for item in value]
        return None if None in inner else repr(inner)
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return value.__qualname__
    return repr(value) if isinstance(value, bool | int | float | str | None) else None


def _maker(maker: object) -> list[Any]:
    if isinstance(maker, partial):
        given = [_plain(value) for value in maker.args]
        named = {name: _plain(value) for name, value in sorted(maker.keywords.items())}
        return [*_maker(maker.func), given, named]
    return [getattr(maker, "__qualname__", type(maker).__qualname__), source_text(maker)]


@cache
def source_text(made: Any) -> str:
    """Source code of a class or function; for a lambda, of the innermost named scope around it.

    For code of a space file it is the source that ran. Empty if there is no source code.
    """
    owner = made if hasattr(made, "__qualname__") else type(made)
    module = sys.modules.get(owner.__module__)
    text: str | None = getattr(module, "__source__", None)
    if text is None:
        try:
            text = inspect.getsource(module)  # type: ignore[arg-type] # None raises TypeError
        except (OSError, TypeError):
            return ""
    scope: ast.AST = _parsed(text)
    for name in owner.__qualname__.replace("<locals>.", "").split("."):
        found = (node for node in ast.walk(scope) if getattr(node, "name", None) == name)
        inner = next((n for n in found if isinstance(n, ast.ClassDef | ast.FunctionDef)), None)
        if inner is None:
            break
        scope = inner
    return _code(scope)


def _code(scope: ast.AST) -> str:
    """Code without comments and docstrings, which change no result, in one layout."""
    plain = copy.deepcopy(scope)
    for node in ast.walk(plain):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(plain)


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)
