"""Optimizer state after transforms: kept places keep theirs, new ones start."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from nas_theseus.errors import TransformError
from nas_theseus.guide.networks import ResNet
from nas_theseus.transforms import Lineage, deepen, enlarge_kernel, narrow, widen

INLET = (1, 16, 16)
OPTIMIZERS = {
    "AdamW": lambda parameters: AdamW(parameters, lr=1e-3, amsgrad=True),
    "SGD": lambda parameters: SGD(parameters, lr=1e-2, momentum=0.9),
}


def step(model: nn.Module, optimizer: Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_kept_places_goes_on(name) -> None:
    make = OPTIMIZERS[name]
    teacher, x = ResNet((2,), 6), torch.randn(4, *INLET)
    before = make(teacher.parameters())
    for _ in range(3):
        step(teacher, before, x)
    lineage = Lineage(teacher)
    student = widen(teacher, "stem.0", 8, inlet=INLET, lineage=lineage)
    student = widen(student, "stem.0", 10, inlet=INLET, lineage=lineage)
    student = widen(student, "block1.conv1", 10, inlet=INLET, lineage=lineage)
    student = deepen(student, "block1", inlet=INLET, lineage=lineage)
    student = enlarge_kernel(student, "block2.conv1", 5, inlet=INLET, lineage=lineage)
    after = make(student.parameters())
    lineage.carry(before, after, student)
    new = dict(student.named_parameters())
    renamed = {n.replace("block1.", "block1.0."): p for n, p in teacher.named_parameters()}
    for key in (
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if name == "AdamW" else ("momentum_buffer",)
    ):
        for parameter_name, parameter in renamed.items():
            old, carried = before.state[parameter][key], after.state[new[parameter_name]][key]
            kept = tuple(slice(size) for size in old.shape)
            if parameter_name == "block2.conv1.weight":
                kept = (*kept[:2], slice(1, 4), slice(1, 4))
            assert torch.equal(carried[kept], old), parameter_name
            rest = torch.ones_like(carried, dtype=torch.bool)
            rest[kept] = False
            expected = old.mean() if "sq" in key else 0.0
            torch.testing.assert_close(carried[rest], torch.full_like(carried[rest], expected))
    assert all(new[n] not in after.state for n in new if "block1.1." in n)
    if name == "AdamW":
        assert after.state[new["stem.0.weight"]]["step"] == 3
    step(student, after, x)


def test_narrowed_layers_and_copies() -> None:
    teacher, x = ResNet((1,), 6), torch.randn(4, *INLET)
    before = SGD(teacher.parameters(), lr=1e-2, momentum=0.9)
    step(teacher, before, x)
    lineage = Lineage(teacher)
    student = narrow(teacher, "block1.conv1", 3, sample=x, lineage=lineage)
    student = widen(student, "block1.conv1", 5, "net2wider", inlet=INLET, lineage=lineage)
    after = SGD(student.parameters(), lr=1e-2, momentum=0.9)
    lineage.carry(before, after, student)
    rows = [
        next(i for i, old in enumerate(teacher.block1.conv1.weight) if torch.equal(old, row))
        for row in student.block1.conv1.weight
    ]
    old = before.state[teacher.block1.conv1.weight]["momentum_buffer"]
    found = after.state[student.block1.conv1.weight]["momentum_buffer"]
    assert torch.equal(found[:3], old[rows[:3]]) and not found[3:].any()


def test_a_student_of_other_transforms_and_another_optimizer_are_refused() -> None:
    teacher, x = ResNet((1,), 4), torch.randn(4, *INLET)
    before = SGD(teacher.parameters(), lr=1e-2, momentum=0.9)
    step(teacher, before, x)
    lineage = Lineage(teacher)
    student = widen(teacher, "block1.conv1", 6, inlet=INLET)
    with pytest.raises(TransformError, match="the same lineage"):
        lineage.carry(before, SGD(student.parameters(), lr=1e-2), student)
    with pytest.raises(TransformError, match="AdamW cannot use the state of SGD"):
        lineage.carry(before, AdamW(student.parameters()), student)
