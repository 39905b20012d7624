"""The properties table: generated, and measured on a small network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus.errors import TransformError
from nas_theseus.guide.networks import ResNet
from nas_theseus.transforms import deepen, properties, properties_table, widen

ROOT = Path(__file__).resolve().parents[3]
INLET = (1, 16, 16)


def test_the_table_of_the_docs_is_generated() -> None:
    told = (ROOT / "docs" / "guides" / "transforms.md").read_text(encoding="utf-8")
    lines = [line for line in told.splitlines() if line.startswith("|")]
    assert "\n".join(lines) == properties_table()
    assert len(lines) == 2 + len(properties())


@pytest.mark.parametrize("row", properties(), ids=lambda row: f"{row['transform']} {row['method']}")
def test_rows_are_what_is_measured(row, trained, difference) -> None:
    teacher = trained(ResNet((1,), 8)).double()
    x = torch.randn(3, *INLET, dtype=torch.double)
    method = row["method"]
    if row["transform"] == "widen":
        student = widen(teacher, "block1.conv1", 12, method, inlet=INLET)
        noisy = widen(teacher, "block1.conv1", 12, method, inlet=INLET, noise=0.1)
        measured = {"new channels": "any", "residual connections": "yes"}
        for column, other, layer, channels in (
            ("new channels", "even", "block1.conv1", 11),
            ("residual connections", "no", "stem.0", 12),
        ):
            try:
                widen(teacher, layer, channels, method, inlet=INLET)
            except TransformError:
                measured[column] = other
        before = teacher.block1.conv2.weight
        kept = torch.equal(student.block1.conv2.weight[:, :8], before)
        measured["keeps existing parameters"] = "yes" if kept else "no"
    else:
        student = deepen(teacher, "block1", method=method, inlet=INLET)
        noisy = deepen(teacher, "block1", method=method, inlet=INLET, noise=0.1)
        after = student.state_dict()
        kept = all(
            torch.equal(value, after[name.replace("block1.", "block1.0.")])
            for name, value in teacher.state_dict().items()
        )
        measured = {"new channels": "–", "keeps existing parameters": "yes" if kept else "no"}
    assert {column: row[column] for column in measured} == measured
    exact = row["function kept in eval mode"] == "exactly"
    assert (difference(teacher, student, x) <= 1e-10) == exact
    in_train = row["in train mode"].startswith("exactly")
    assert (difference(teacher, student, x, train=True) <= 1e-10) == in_train
    assert difference(teacher, noisy, x) > 1e-10
