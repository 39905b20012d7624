"""What a trace for cutting keeps, leaves out and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError
from nas_theseus.guide.cut import cut, cut_points
from nas_theseus.guide.tracing import evaluating


class Apply(nn.Module):
    def __init__(self, function, *children: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(children)
        self.scale = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def chain_of(model: nn.Module, at: list[str], inlet: tuple[int, ...]) -> None:
    guide = cut(model, at, inlet).eval()
    inputs = torch.randn(3, *inlet)
    assert len(guide) == len(at) + 1
    with torch.no_grad():
        assert torch.equal(guide(inputs), model.eval()(inputs))


@pytest.mark.parametrize(
    "batch", [lambda x: x.size(0), lambda x: x.shape[0], lambda x: x.size()[0]]
)
def test_the_batch_size_may_cross_a_cut(batch) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        count = batch(x)
        return self.inner[1](self.inner[0](x)).view(count, -1)

    model = Apply(forward, nn.Conv2d(2, 3, 3), nn.ReLU())
    assert [point.name for point in cut_points(model)] == ["inner.0", "inner.1"]
    chain_of(model, ["inner.0", "inner.1"], (2, 5, 5))


def test_other_sizes_that_cross_are_named() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        width = x.size(2)
        return self.inner[0](x).view(-1, width)

    with pytest.raises(CutError, match=r"'size' also cross it|'inputs' also cross it"):
        cut(Apply(forward, nn.ReLU()), ["inner.0"], (2, 5))


def test_what_is_made_of_parameters_alone_crosses_and_is_no_cut_point() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        scale = self.scale.reshape(1, 1)
        return self.inner[1](self.inner[0](x) * scale) * scale

    model = Apply(forward, nn.Linear(4, 4), nn.ReLU())
    assert [point.name for point in cut_points(model)] == ["inner.0", "mul", "inner.1"]
    chain_of(model, ["inner.0", "mul", "inner.1"], (4,))
    with pytest.raises(CutError, match="no submodule or operation has this name"):
        cut(model, ["reshape"], (4,))


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, double: bool = False) -> Tensor:
        x = x + 1 if mask is None else x * mask
        return 2 * x if double else x


def test_optional_arguments_keep_their_defaults() -> None:
    chain_of(Masked(), [], (4,))


def test_a_second_required_argument_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(CutError, match="cannot trace Two: .*missing 1 required"):
        cut(Two(), [], (3,))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if x.sum() > 0 else -x


def test_a_submodule_that_does_not_trace_runs_whole() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branching(), nn.ReLU()), nn.Linear(4, 2))
    assert [point.name for point in cut_points(model)] == ["0", "1.0", "1"]
    chain_of(model, ["0", "1.0", "1"], (4,))
    with pytest.raises(CutError, match=r"'1\.0' is kept whole, .* cut after '1\.0'"):
        cut(model, ["1.0.linear"], (4,))


class DropPath(nn.Module):
    """Stochastic depth, written as in many libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.linear(x))

    def scaled(self, x: Tensor) -> Tensor:
        return x * torch.zeros(len(x), 1) if self.training else x


def test_what_depends_on_the_mode_does_so_in_the_chain() -> None:
    guide = cut(nn.Sequential(DropPath(), nn.Identity(), nn.Linear(4, 2, bias=False)), ["1"], (4,))
    inputs = torch.randn(2, 4)
    assert guide.eval()(inputs).abs().min() > 0
    assert not guide.train()(inputs).any()


class NormAndAct(nn.BatchNorm2d):
    """As timm writes it: a subclass that calls the functional form."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(
            nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training
            )
        )


def test_layers_made_from_torch_s_stay_layers() -> None:
    guide = cut(nn.Sequential(nn.Conv2d(2, 3, 1), NormAndAct(3)), ["0"], (2, 4, 4)).train()
    guide(torch.randn(4, 2, 4, 4) + 5)
    assert any(isinstance(module, nn.BatchNorm2d) for module in guide.parts[1].modules())
    assert guide.parts[1].get_buffer("1.running_mean").any()


def test_identities_are_other_names_for_the_place_before_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2))
    (point,) = cut_points(model)
    assert (point.name, point.also) == ("0", ("1",))
    chain_of(model, ["1"], (4,))


def test_random_numbers_that_a_trace_would_fix_are_refused() -> None:
    model = Apply(lambda self, x: x + torch.randn(4))
    with pytest.raises(CutError, match="does not compute what Apply computes: .* up to"):
        cut(model, [], (4,))


def test_places_whose_tensor_is_no_boundary_are_left_out_with_an_inlet() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return (x.reshape(-1, 2, 2, 2, 2) + 1).flatten(0, 1).flatten(1).reshape(-1, 16) * 2

    model = Apply(forward)
    assert [point.name for point in cut_points(model, (16,))] == ["reshape_1"]
    assert len(cut_points(model)) == 5


def test_numbers_are_no_places_to_cut() -> None:
    model = Apply(lambda self, x: (x * 2).relu() / x.abs().max())
    points = [point.name for point in cut_points(model, (4,))]
    assert "max_1" not in points
    model = Apply(lambda self, x: x.mean() * torch.ones(2, 4) + 1)
    assert [point.name for point in cut_points(model, (4,))] == ["mul"]


def test_each_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    cut(model, ["0"], (2,))
    assert [module.training for module in model] == [True, False]
    assert torch.is_grad_enabled()


def test_each_call_of_a_shared_activation_has_a_name() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = (nn.Linear(4, 4) for _ in range(3))
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.act(self.second(self.act(self.first(x)))))
            return found

    network = Shared()
    names = [name for point in cut_points(network) for name in (point.name, *point.also)]
    assert names == ["first", "act:1", "second", "act"]
    guide = cut(network, ["act:1", "act"], (4,))
    inputs = torch.randn(3, 4)
    assert torch.equal(guide.features(inputs, [1])[1], network.first(inputs).relu())
    assert torch.equal(guide(inputs), network(inputs))
