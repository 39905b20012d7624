"""DeiTs of timm become anchors, with weights of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from nas_theseus.errors import GuideError
from nas_theseus.stitching.deit import deit_anchors
from nas_theseus.stitching.stitchable import StitchableNet
from nas_theseus.tasks import from_datasets

IMAGES = [(torch.randn(3, 32, 32), label % 2) for label in range(20)]
TASK = from_datasets(IMAGES, IMAGES, inlet=(3, 32, 32), classes=2)


def test_two_sizes_are_stitched(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    tiny = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=2)
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "tiny.safetensors")
    anchors = deit_anchors({"small": None, "tiny": tmp_path / "tiny.safetensors"}, TASK)
    small, again = (anchor.network for anchor in anchors)
    inputs = TASK.sample(2)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(inputs), tiny.eval()(inputs))
    # Four patches and the class token; embedding and twelve layers.
    assert again.boundaries[1].shape == (5, 192) and small.boundaries[1].shape == (5, 384)
    assert len(again) == len(small) == 14
    net = StitchableNet(anchors)
    assert net.names == ("deit-tiny", "deit-small")
    # Windows of two over thirteen boundaries; neighbours share one corner.
    assert len(net.stitches) == 12
    assert len(net.configs()) == 2 + 4 + 11 * 3


def test_what_is_no_deit() -> None:
    with pytest.raises(GuideError, match="unknown DeiT size 'huge'; available: tiny, small, base"):
        deit_anchors({"huge": None}, TASK)


def test_weights_of_other_classes_are_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    tiny = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=5)
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "tiny.safetensors")
    with pytest.raises(GuideError, match=r"head.weight: file \(5, 192\), model \(2, 192\)"):
        deit_anchors({"tiny": tmp_path / "tiny.safetensors"}, TASK)
