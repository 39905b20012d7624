"""Private names of Optuna stand in private.py alone, and an Optuna without them is refused."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import optuna
import pytest

from nas_theseus.errors import ServiceError
from nas_theseus.services import optuna as ours
from nas_theseus.services.optuna import private

FOLDER = Path(ours.__file__).parent
MODULES = [
    found.name
    for found in pkgutil.walk_packages([str(FOLDER)], f"{ours.__name__}.")
    if not found.ispkg and found.name != private.__name__
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_optuna(kind: type) -> set[str]:
    """Private names of those bases of a class that Optuna has."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("optuna"):
            names |= set(vars(base)) | set(re.findall(r"self\.(_\w+)", inspect.getsource(base)))
    return {name for name in names if is_private(name)}


def used(module: ModuleType) -> set[str]:
    """Private names that a module takes from others, or shares with a base that Optuna has."""
    tree = ast.parse(inspect.getsource(module))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found |= {name for name in path if is_private(name)}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            taken = of_optuna(getattr(module, node.name))
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute):
                    found |= {inner.attr} & taken
                elif isinstance(inner, ast.FunctionDef):
                    found |= {inner.name} & taken
    return found


@pytest.mark.parametrize("name", MODULES)
def test_no_other_file_uses_a_private_name_of_optuna(name: str) -> None:
    module = importlib.import_module(name)
    own = {node.id for node in ast.walk(ast.parse(inspect.getsource(module)))
           if isinstance(node, ast.Name)}  # fmt: skip
    assert used(module) - own == set()


def test_the_search_for_private_names_finds_those_of_private_py() -> None:
    names = {"_get_trials", "_storage", "_study_id", "_trial_id", "_get_generation_key"}
    assert names <= used(private)


def test_an_optuna_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    private.check()
    monkeypatch.delattr(optuna.Study, "_get_trials")
    with pytest.raises(ServiceError, match=r"has no Study\._get_trials.*pip install 'optuna"):
        private.check()
