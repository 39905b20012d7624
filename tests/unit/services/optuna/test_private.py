"""Private names of Optuna stand in private.py alone, and an Optuna without them is refused."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.errors import ServiceError
from nas_theseus.services import optuna as ours
from nas_theseus.services.optuna import private
from nas_theseus.services.optuna.genes import FixedGenome
from nas_theseus.services.optuna.journal import open_journal
from nas_theseus.services.optuna.private import RememberingTPESampler
from nas_theseus.services.optuna.window import Thinned

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


FAIL = TrialState.FAIL
GENES: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(("basic", "linear", None)),
    "width": CategoricalDistribution((4, 8, 16)),
    "share": FloatDistribution(0.0, 1.0),
}


def proposals(kind: type[TPESampler], journal: Path) -> list[dict[str, object]]:
    """Of a study with two trials at once, infeasible and failed ones, a sampler a proposal."""
    study = optuna.create_study(storage=open_journal(journal), directions=["maximize", "minimize"])
    window, running, found = Thinned(20), [], []
    for number in range(50):
        tpe = kind(seed=number, multivariate=True, constant_liar=True)
        study.sampler = FixedGenome(tpe, GENES, window)
        trial = study.ask(GENES)
        found.append(dict(trial.params))
        running.append(trial)
        if number % 2:
            for trial in running:
                trial.set_constraint("macs", trial.params["share"] - 0.8)
                failed = trial.number % 7 == 0
                values = [trial.params["width"] ** 0.5, trial.params["share"]]
                study.tell(trial, None if failed else values, state=FAIL if failed else None)
            running.clear()
    return found


def test_a_tpe_that_remembers_proposes_what_optuna_s_does(tmp_path: Path) -> None:
    theirs = proposals(TPESampler, tmp_path / "theirs")
    assert proposals(RememberingTPESampler, tmp_path / "ours") == theirs


def test_the_genes_of_a_finished_trial_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = TPESampler._get_internal_repr

    def counted(
        self: TPESampler,
        trials: list[FrozenTrial],
        space: dict[str, BaseDistribution],
        study: optuna.Study,
    ) -> dict[str, np.ndarray]:
        read.extend(trial.number for trial in trials if trial.state.is_finished())
        return original(self, trials, space, study)

    monkeypatch.setattr(TPESampler, "_get_internal_repr", counted)
    proposals(RememberingTPESampler, tmp_path / "ours")
    assert len(read) == len(set(read)) > 30
