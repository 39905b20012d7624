"""The basis of a search is saved once its guide is measured."""

from __future__ import annotations

from pathlib import Path

from nas_theseus.costs.table import CostTable
from nas_theseus.searches.basis import Basis
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import Measured
from nas_theseus.space.load import load_space
from nas_theseus.values.rung import rungs_of


def test_it_has_guide_reference_and_rungs_and_is_read_again(
    toy_space_file: Path, tmp_path: Path
) -> None:
    space = load_space(toy_space_file)
    values = {"val_accuracy": 0.9, "macs": 1000, "params": 10, "odd": float("nan")}
    measured = Measured(space, CostTable(space), values)
    basis, folder = Basis.of(measured), SearchFolder(tmp_path / "theseus", "toy")
    folder.create()
    assert Basis.read(folder) is None
    basis.write(folder)
    assert Basis.read(folder) == basis
    assert basis.guide == {"val_accuracy": 0.9, "macs": 1000, "params": 10}
    assert basis.reference == measured.reference
    assert basis.rungs == rungs_of(space.recipe, "val_accuracy")
    assert basis.examples == space.task.size("validation") > 0
