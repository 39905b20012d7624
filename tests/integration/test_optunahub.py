"""The sampler's package for OptunaHub: as its registry asks, loaded and run as it is there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import optuna
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Where optunahub looks in a repository by default.
REGISTRY = ROOT / "package"
PACKAGE = REGISTRY / "samplers" / "theseus_sampler"


def load(package: str, registry_root: str) -> ModuleType:
    """As optunahub.load_local_module does, without its download of anything else."""
    path = Path(registry_root) / package / "__init__.py"
    spec = importlib.util.spec_from_file_location(Path(package).name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_is_what_the_registry_asks_for() -> None:
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {"LICENSE", "README.md", "__init__.py", "example.py", "requirements.txt"}
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert list(fields) == [
        "author",
        "title",
        "description",
        "tags",
        "optuna_versions",
        "license",
    ]
    assert fields["tags"].startswith("[sampler, ") and fields["license"].startswith("Apache")
    headings = re.findall(r"^## (.+)$", body, re.MULTILINE)
    assert headings == [
        "Abstract",
        "Class or Function Names",
        "Installation",
        "Example",
        "Others",
    ]
    names = re.findall(r"^- (\w+)$", body, re.MULTILINE)
    assert names == load("samplers/theseus_sampler", str(REGISTRY)).__all__


def test_the_example_runs_at_a_small_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = ModuleType("optunahub")
    hub.load_local_module = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    monkeypatch.setattr(sys, "argv", ["example.py", "4"])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = importlib.util.spec_from_file_location("theseus_example", PACKAGE / "example.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    trials = example.study.trials
    assert len(trials) == 4
    proposed = {example.sampler.genome.decode(trial.params) for trial in trials}
    assert len(proposed) == 4  # none twice
    for trial in trials:
        architecture = example.sampler.genome.decode(trial.params)
        assert trial.values[1] == example.costs.of(architecture).macs
        assert 0 <= trial.values[0] <= 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(example.study.best_trials) > 0
    assert all(line.startswith("accuracy 0.") for line in lines)
