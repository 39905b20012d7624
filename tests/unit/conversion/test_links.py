"""Chains run link by link: activations computed twice change no gradient and no statistic."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Recipe, cut
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.links import links_of, outlets_of, required_links, run_links
from nas_theseus.errors import ConversionError
from nas_theseus.tasks import digits

TASK = digits()


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
    second = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4, momentum=None), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10))
    return nn.Sequential(first, second, head).train()


class Counting(nn.Module):
    """A linear layer that counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.runs = nn.Linear(4, 4), 0

    def forward(self, features: Tensor) -> Tensor:
        self.runs += 1
        out: Tensor = self.linear(features)
        return out


def test_gradients_outputs_and_statistics_are_those_without_checkpointing() -> None:
    plain, inputs = network(), TASK.sample(16)
    again = copy.deepcopy(plain)
    outputs = []
    for chain, checkpointing in ((plain, False), (again, True)):
        torch.manual_seed(3)
        *_, out = run_links(chain, links_of(chain), inputs, checkpointing=checkpointing)
        out.square().mean().backward()  # type: ignore[no-untyped-call]
        outputs.append(out)
    assert torch.equal(*outputs)
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert one.grad is not None and torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    states = plain.state_dict(), again.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert int(again[0][1].num_batches_tracked) == 1  # type: ignore[index,arg-type]
    assert (again[0][1].momentum, again[1][1].momentum) == (0.1, None)  # type: ignore[index]


@pytest.mark.parametrize(("checkpointing", "runs"), [(False, 1), (True, 2)])
def test_links_run_a_second_time_in_the_backward_pass_only_if_asked(
    checkpointing: bool, runs: int
) -> None:
    chain = nn.Sequential(Counting(), Counting())
    *_, out = run_links(chain, links_of(chain), torch.ones(2, 4), checkpointing=checkpointing)
    assert [link.runs for link in chain] == [1, 1]
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert [link.runs for link in chain] == [runs, runs]
    with torch.no_grad():
        list(run_links(chain, links_of(chain), torch.ones(2, 4), checkpointing=checkpointing))
    assert [link.runs for link in chain] == [runs + 1, runs + 1]


def test_checkpointed_training_ends_with_the_same_weights() -> None:
    recipe = Recipe(steps=3, distill=0, batch_size=32)
    plain, again = network(), network()
    (*_, first) = train(plain, TASK, recipe, 1)
    (*_, second) = train(again, TASK, recipe.model_copy(update={"checkpointing": True}), 1)
    assert first.loss == second.loss
    states = plain.state_dict(), again.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_guide_is_a_chain_of_its_parts() -> None:
    guide = cut(network().eval(), ["0", "1"], (1, 8, 8))
    links = links_of(guide)
    assert links == list(guide.parts) and outlets_of(guide, links) == [1, 2, 3]
    *_, out = run_links(guide, links, TASK.sample(4))
    assert torch.equal(out, guide(TASK.sample(4)))


def test_what_is_no_chain_is_refused_with_the_setting() -> None:
    assert links_of(nn.Linear(3, 3)) == []
    with pytest.raises(ConversionError, match="hidden needs .* Linear is none: leave hidden"):
        required_links(nn.Linear(3, 3), "hidden")
    with pytest.raises(ConversionError, match="checkpointing needs"):
        list(train(nn.Linear(3, 3), TASK, Recipe(checkpointing=True, distill=0), 0))
