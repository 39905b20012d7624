"""Stitches recover known maps, and leave unexplained what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.conversion.folding import fold_after, with_weights
from nas_theseus.conversion.stitch_layer import fit_stitch, fit_stitch_batches, make_stitch, rows
from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values.architecture import Boundary


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_rows_are_positions() -> None:
    features = torch.randn(2, 3, 4, 5)
    assert torch.equal(rows(features, "map")[1 * 20 + 2 * 5 + 3], features[1, :, 2, 3])
    tokens = torch.randn(2, 7, 3)
    assert torch.equal(rows(tokens, "tokens")[7 + 2], tokens[1, 2])
    vectors = torch.randn(2, 3)
    assert torch.equal(rows(vectors, "vector"), vectors)
    assert torch.equal(rows(features), rows(features, "map"))
    with pytest.raises(ShapeError, match=r"\(2, 7, 3\) of kind map"):
        rows(tokens, "map")
    with pytest.raises(ShapeError):
        rows(torch.randn(3))


STITCHES = {
    "1x1": ((4, 6, 6), (5, 6, 6)),
    "strided": ((4, 6, 6), (5, 3, 2)),
    "upsampling": ((4, 3, 2), (5, 6, 6)),
    "tokens": ((6, 4), (6, 5)),
    "vectors": ((4,), (5,)),
    "map to vector": ((4, 6, 6), (5,)),
    "tokens to vector": ((6, 4), (5,)),
    "map to tokens": ((4, 3, 2), (6, 5)),
    "map to tokens with class": ((4, 3, 2), (7, 5)),
    "tokens to map": ((6, 4), (5, 3, 2)),
    "tokens with class to map": ((7, 4), (5, 3, 2)),
}


@pytest.mark.parametrize(("inlet", "outlet"), STITCHES.values(), ids=STITCHES.keys())
def test_a_fitted_stitch_recovers_a_known_one(inlet: tuple, outlet: tuple) -> None:
    known, fitted = (make_stitch(Boundary(inlet), Boundary(outlet)) for _ in range(2))
    sender = torch.randn(300, *inlet) + 1
    with torch.no_grad():
        receiver = known(sender)
    assert receiver.shape == (300, *outlet)
    residual = fit_stitch(fitted, sender, receiver)
    assert residual < 1e-9
    fresh = torch.randn(8, *inlet)
    torch.testing.assert_close(fitted(fresh), known(fresh), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("inlet", "outlet"), STITCHES.values(), ids=STITCHES.keys())
def test_the_residual_is_what_the_fitted_stitch_leaves(inlet: tuple, outlet: tuple) -> None:
    sender, receiver = torch.randn(300, *inlet), torch.randn(300, *outlet) + 3
    stitch = make_stitch(Boundary(inlet), Boundary(outlet))
    receiver = receiver + 0.3 * stitch(sender).detach()
    residual = fit_stitch(stitch, sender, receiver)

    def squares(values: Tensor) -> float:
        if len(outlet) == 2 and outlet[0] == 7:  # the class token has a layer and mean of its own
            return sum(((rows(v) - rows(v).mean(0)) ** 2).sum().item()
                       for v in (values[:, :1], values[:, 1:]))  # fmt: skip
        return ((rows(values) - rows(values).mean(0)) ** 2).sum().item()

    with torch.no_grad():
        left = squares(receiver - stitch(sender))
    assert residual == pytest.approx(left / squares(receiver), abs=1e-5)
    assert 0.5 < residual < 1
    # no other weights nearby do better
    for parameter in stitch.parameters():
        with torch.no_grad():
            parameter += 0.05 * torch.randn_like(parameter)
            assert ((receiver - stitch(sender)) ** 2).sum().item() > left


def test_batches_fit_a_stitch_as_all_examples_do() -> None:
    boundaries = Boundary((4, 6, 6)), Boundary((5, 3, 3))
    sender, receiver = torch.randn(300, 4, 6, 6), torch.randn(300, 5, 3, 3)
    whole, parts = make_stitch(*boundaries), make_stitch(*boundaries)
    residual = fit_stitch(whole, sender, receiver)
    batches = zip(sender.split(70), receiver.split(70), strict=True)
    assert fit_stitch_batches(parts, batches) == pytest.approx(residual, abs=1e-9)
    torch.testing.assert_close(whole(sender), parts(sender), atol=1e-6, rtol=1e-5)


def test_upsampling_first_is_the_same_function() -> None:
    stitch = make_stitch(Boundary((4, 3, 2)), Boundary((5, 6, 6)))
    features = torch.randn(2, 4, 3, 2)
    enlarged = nn.Upsample(scale_factor=(2, 3), mode="nearest")(features)
    torch.testing.assert_close(stitch(features), stitch.conv(enlarged))


@pytest.mark.parametrize(
    ("inlet", "outlet"),
    [
        (Boundary((4, 6, 6)), Boundary((4, 4, 4))),
        (Boundary((4, 6, 3)), Boundary((4, 3, 6))),
        (Boundary((9, 4)), Boundary((8, 4))),
        (Boundary((4, 3, 3)), Boundary((11, 4))),
        (Boundary((11, 4)), Boundary((4, 3, 3))),
        (Boundary((4,)), Boundary((4, 3, 3))),
        (Boundary((4,)), Boundary((9, 4))),
        (Boundary((9,), integer=True), Boundary((9, 4))),
    ],
    ids=str,
)
def test_no_stitch_names_both_shapes(inlet: Boundary, outlet: Boundary) -> None:
    with pytest.raises(ShapeError) as error:
        make_stitch(inlet, outlet)
    assert str(inlet) in str(error.value)
    assert str(outlet) in str(error.value)


def test_fit_stitch_refuses_other_features() -> None:
    stitch = make_stitch(Boundary((4, 6, 6)), Boundary((5, 3, 3)))
    with pytest.raises(ShapeError, match=r"\(2, 4, 6, 6\) and \(2, 5, 6, 6\)"):
        fit_stitch(stitch, torch.randn(2, 4, 6, 6), torch.randn(2, 5, 6, 6))
    with pytest.raises(ShapeError, match="2 of the sender and 3 of the receiver"):
        fit_stitch(stitch, torch.randn(2, 4, 6, 6), torch.randn(3, 5, 3, 3))
    with pytest.raises(ConversionError, match="no features"):
        fit_stitch_batches(stitch, [])


def test_a_pointwise_stitch_folds_into_the_block_before_it() -> None:
    last = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
    images = torch.randn(64, 3, 8, 8)
    sender = last(images).detach()
    stitch = make_stitch(Boundary((4, 4, 4)), Boundary((6, 4, 4)))
    fit_stitch(stitch, sender, torch.randn(64, 6, 4, 4))
    folded = with_weights(last, *fold_after(last, stitch.linear_map()))
    torch.testing.assert_close(folded(images), stitch(sender), atol=1e-5, rtol=1e-5)
    for name, (inlet, outlet) in STITCHES.items():
        foldable = make_stitch(Boundary(inlet), Boundary(outlet)).linear_map() is not None
        assert foldable == (name in ("1x1", "tokens", "vectors"))
