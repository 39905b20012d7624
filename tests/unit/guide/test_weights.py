"""Weights as people have them: nested, prefixed, with foreign objects, empty or damaged."""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas_theseus.errors import GuideError
from nas_theseus.guide.weights import load_weights, plain_state, read_weights
from nas_theseus.storage.whole_files import write_tensors


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


NESTED = ["state_dict", "model", "model_state_dict"]
PREFIXES = ["module.", "_orig_mod.", "model.", "model._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("key", [None, *NESTED])
def test_checkpoints_are_read_under_their_keys_and_prefixes(
    key: str | None, prefix: str, tmp_path: Path
) -> None:
    trained, path = net(), tmp_path / "checkpoint.pt"
    state = prefixed(prefix, trained.state_dict())
    optimizer = torch.optim.SGD(trained.parameters()).state_dict()
    torch.save(state if key is None else {key: state, "epoch": 3, "optimizer": optimizer}, path)
    loaded = net()
    load_weights(loaded, path)
    torch.testing.assert_close(loaded.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_wrappers_of_torch_write_such_prefixes(tmp_path: Path) -> None:
    trained = net()
    wrapped = nn.DataParallel(torch.compile(trained))  # type: ignore[arg-type]
    torch.save(wrapped.state_dict(), tmp_path / "wrapped.pt")
    loaded = net()
    load_weights(loaded, tmp_path / "wrapped.pt")
    torch.testing.assert_close(loaded.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_a_model_that_has_such_a_part_keeps_its_names(tmp_path: Path) -> None:
    trained = nn.Sequential(OrderedDict(model=net()))
    save_file(plain_state(trained), tmp_path / "g.safetensors")
    loaded = nn.Sequential(OrderedDict(model=net()))
    load_weights(loaded, tmp_path / "g.safetensors")
    assert torch.equal(loaded[0][0].weight, trained[0][0].weight)


def test_names_that_no_prefix_explains_are_shown_as_they_are(tmp_path: Path) -> None:
    torch.save(prefixed("module.layer", net().state_dict()), tmp_path / "other.pt")
    with pytest.raises(GuideError, match=r"module\.layer0\.bias: not in the model"):
        load_weights(net(), tmp_path / "other.pt")


def test_several_state_dicts_in_one_file_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": net().state_dict(), "state_dict": net().state_dict()}, tmp_path / "two.pt")
    with pytest.raises(GuideError, match=r"several state dicts \(state_dict, model\)"):
        read_weights(tmp_path / "two.pt")


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({"args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"best": np.float64(0.5)}, "numpy"),
        ({"net": net()}, "torch.nn.modules"),
    ],
)
def test_foreign_objects_are_named_with_what_helps(
    held: dict[str, object], named: str, tmp_path: Path
) -> None:
    trained, path = net(), tmp_path / "foreign.pt"
    torch.save({"model": trained.state_dict(), **held}, path)
    with pytest.raises(GuideError) as refusal:
        read_weights(path)
    message = str(refusal.value)
    assert f"an object of {named}" in message and "weights_only=False" in message
    assert "\x1b" not in message and "elete" not in message
    torch.save(torch.load(path, weights_only=False)["model"], tmp_path / "own.pt")  # as it says
    load_weights(net(), tmp_path / "own.pt")


def test_a_torchscript_archive_is_named_with_what_helps(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net().eval(), torch.ones(1, 3)), path)
        with pytest.raises(GuideError, match=r"TorchScript.*torch.jit.load\(...\).state_dict"):
            read_weights(path)
        torch.save(torch.jit.load(path).state_dict(), tmp_path / "own.pt")
    load_weights(net(), tmp_path / "own.pt")


@pytest.mark.parametrize("name", ["empty.pt", "empty.safetensors"])
def test_an_empty_file_is_named_as_such(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(GuideError, match=rf"{name} is empty \(0 bytes\).*copy or save it again"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"text", json.dumps({"a": 1}).encode(), pickle.dumps([Path("x")]), b"PK\x03\x04"]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_weights_file_gets_one_plain_sentence(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(GuideError) as refusal:
        read_weights(path)
    message = str(refusal.value)
    assert (str(path) in message and "again" in message) or "weights_only=False" in message
    assert "\n" not in message and "\x1b" not in message and "elete" not in message


def test_a_checkpoint_cut_short_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(GuideError, match=r"cut.pt is damaged.*Copy it again"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "inside"),
    [({"epoch": 3, "lr": 0.1}, "epoch, lr"), ([1], "type list"), ({}, "type dict")],
)
def test_a_checkpoint_without_a_state_dict_says_what_it_holds(
    content: object, inside: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "none.pt")
    with pytest.raises(GuideError, match=f"holds no state dict .*but .*{inside}"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize("place", [-1, -40, -81])
def test_a_flipped_bit_among_the_numbers_is_noticed(place: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = {"half": torch.ones(3, dtype=torch.bfloat16), "one": torch.tensor(2.0),
             "rows": torch.arange(20.0).reshape(4, 5)}  # fmt: skip
    write_tensors(path, state)
    assert {n: t.tolist() for n, t in read_weights(path).items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }
    flipped = bytearray(path.read_bytes())
    flipped[place] ^= 1
    path.write_bytes(bytes(flipped))
    assert load_file(path).keys() == state.keys()  # the file is whole, but for its numbers
    with pytest.raises(GuideError, match="weights.safetensors is damaged.*SHA-256 differs"):
        read_weights(path)
