"""Cutting networks into parts, and what cannot be cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors.torch import save_file
from torch import Tensor, nn

from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import cut, cut_points
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.values.architecture import Boundary


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))


def test_a_resnet_s_chain_computes_what_the_model_computes() -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    at = ["relu", "maxpool", "layer1.0", "layer1", "layer2", "layer3", "layer4.0", "layer4"]
    guide = cut(model, at, (3, 64, 64)).eval()
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(guide(inputs), model(inputs))
    assert guide.boundaries[4] == Boundary((64, 16, 16))
    assert guide.names == (*at, "head")
    middle = guide.features(inputs, {2, 9})
    assert torch.equal(middle[9], guide(inputs))


def test_every_listed_cut_point_can_be_cut() -> None:
    model = torchvision.models.resnet18(weights=None)
    names = [point.name for point in cut_points(model)]
    assert {"relu", "layer1.0", "layer1", "avgpool"} <= set(names)
    assert not any("conv1" in name or "downsample" in name for name in names if "." in name)
    assert len(cut(model, names, (3, 32, 32))) == len(names) + 1


def test_what_else_crosses_is_named() -> None:
    model = torchvision.models.resnet18(weights=None)
    with pytest.raises(CutError, match="'maxpool' also cross it; 'nas-theseus parts'"):
        cut(model, ["layer1.0.conv1"], (3, 64, 64))


def test_unknown_names_and_wrong_order_are_told() -> None:
    with pytest.raises(CutError, match="available: 0, 1, 2, 3"):
        cut(small(), ["layer9"], (3, 8, 8))
    with pytest.raises(CutError, match="does not come after '1'"):
        cut(small(), ["1", "0"], (3, 8, 8))


def test_an_inlet_that_does_not_fit_is_told() -> None:
    with pytest.raises(
        CutError, match=r"part '1' .* \(2, 1, 8, 8\): RuntimeError: .* take inputs of this shape\?"
    ):
        cut(small(), ["1"], (1, 8, 8))
    with pytest.raises(CutError, match=r"Sequential cannot be run .* \(C,H,W\) = \(1, 8, 8\)"):
        cut_points(small(), (1, 8, 8))
    for wrong in (64, (3, 8, 8, 8), (), (3, 0, 8), (3.0, 8, 8), "38"):
        with pytest.raises(CutError, match="an inlet is the shape of one input"):
            cut(small(), ["1"], wrong)  # type: ignore[arg-type]


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(CutError, match=r"such as \['1'\], not '1'"):
        cut(small(), "1", (3, 8, 8))


def test_a_chain_takes_a_shape_and_token_ids_as_the_task_has_them() -> None:
    assert Guide([("act", nn.ReLU())], (3,)).boundaries == (Boundary((3,)), Boundary((3,)))
    with pytest.raises(CutError, match="For token ids use the task's inlet, task.inlet"):
        Guide([("embed", nn.Embedding(5, 4))], (3,))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_does_not_trace_says_what_to_do() -> None:
    with pytest.raises(CutError, match=r"Build the chain by hand: Guide"):
        cut(Branches(), [], (3,))


def test_a_guide_that_is_random_in_eval_mode_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    with pytest.raises(CutError, match="different outputs for the same input"):
        Guide([("noisy", Noisy())], Boundary((3,)))


def test_parts_leave_their_input_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(3, 2))
    guide = cut(model, ["0", "2"], (3,)).eval()
    inputs = torch.randn(5, 3)
    with torch.no_grad():
        found = guide.features(inputs, {1, 2, 3})
        assert torch.equal(found[1], model[0](inputs))
        assert torch.equal(found[2], model[0](inputs).relu())
        assert torch.equal(found[3], model(inputs))
    with pytest.raises(CutError, match="part 'act' changes its input in place"):
        Guide([("linear", nn.Linear(3, 3)), ("act", nn.ReLU(inplace=True))], Boundary((3,)))


def test_a_norm_shared_by_two_parts_is_refused() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    with pytest.raises(CutError, match="share a module with running statistics"):
        cut(model, ["1"], (3,))


def test_weights_round_trip_and_the_hash_follows_them(tmp_path: Path) -> None:
    guide = cut(small(), ["1"], (3, 8, 8))
    save_file(plain_state(guide), tmp_path / "g.safetensors")
    other = cut(small(), ["1"], (3, 8, 8))
    assert other.content_hash() != guide.content_hash()
    load_weights(other, tmp_path / "g.safetensors")
    assert other.content_hash() == guide.content_hash()


def test_a_weights_only_checkpoint_is_read_and_code_is_not_run(tmp_path: Path) -> None:
    model = small()
    torch.save(model.state_dict(), tmp_path / "good.pt")
    guide = cut(small(), ["1"], (3, 8, 8), weights=tmp_path / "good.pt")
    assert torch.equal(guide.state_dict()["parts.0.0.weight"], model[0].weight)
    torch.save(model, tmp_path / "whole_model.pt")
    with pytest.raises(GuideError, match="weights_only=False"):
        load_weights(small(), tmp_path / "whole_model.pt")


def test_damaged_missing_and_foreign_weights(tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    save_file(plain_state(small()), bad)
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(GuideError, match="is damaged"):
        load_weights(small(), bad)
    with pytest.raises(GuideError, match="does not exist"):
        load_weights(small(), tmp_path / "none.safetensors")
    save_file(plain_state(nn.Linear(2, 2)), tmp_path / "other.safetensors")
    with pytest.raises(GuideError, match="do not fit Sequential"):
        load_weights(small(), tmp_path / "other.safetensors")
