"""Activations in bfloat16: what they are, that no order changes them, and how much is held."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.conversion import activations as activations_module
from nas_theseus.conversion.activations import GuideActivations, sample_size
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import digits
from nas_theseus.values.recipe import ActivationsDtype

CPU = torch.device("cpu")
SAMPLE = digits().sample(40)
PARTS = 5


class Layer(nn.Module):
    """A layer that counts the examples it has seen."""

    def __init__(self, inlet: int) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(inlet, 16), 0

    def forward(self, x: Tensor) -> Tensor:
        object.__setattr__(self, "seen", self.seen + len(x))
        out: Tensor = self.linear(x.flatten(1)).tanh()
        return out


def make_guide() -> Guide:
    torch.manual_seed(0)
    guide = Guide([(str(i), Layer(16 if i else 64)) for i in range(PARTS)], (1, 8, 8))
    for part in guide.parts:
        object.__setattr__(part, "seen", 0)
    return guide


def rounded(
    guide: Guide, folder: Path | None = None, limit_bytes: int = 1 << 20
) -> GuideActivations:
    return GuideActivations(guide, SAMPLE, CPU, limit_bytes, folder, "bfloat16")


def by_hand(boundary: int) -> Tensor:
    features = SAMPLE
    guide = make_guide()
    with torch.no_grad():
        for part in guide.parts[:boundary]:
            features = part(features).bfloat16().float()
    return features


def seen(guide: Guide) -> list[int]:
    return [int(part.seen) for part in guide.parts]  # type: ignore[arg-type]


def test_each_boundary_is_rounded_and_computed_from_the_rounded_one_before() -> None:
    found, exact = rounded(make_guide()), GuideActivations(make_guide(), SAMPLE, CPU)
    for boundary in range(PARTS + 1):
        given = found.at(boundary)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, by_hand(boundary), rtol=0.01, atol=0.01)
        torch.testing.assert_close(given, exact.at(boundary), rtol=0.05, atol=0.05)
    assert torch.equal(found.at(0), SAMPLE)
    assert not torch.equal(found.at(3), exact.at(3))


@pytest.mark.parametrize("in_folder", [False, True])
def test_the_order_of_questions_changes_nothing(in_folder: bool, tmp_path: Path) -> None:
    wanted = [rounded(make_guide()).at(boundary) for boundary in range(PARTS + 1)]
    for number, order in enumerate(itertools.islice(itertools.permutations((1, 3, 5)), 6)):
        folder = tmp_path / str(number) if in_folder else None
        # Room for one boundary only: the others are dropped.
        found = rounded(make_guide(), folder, limit_bytes=40 * 16 * 2)
        for boundary in order:
            assert torch.equal(found.at(boundary), wanted[boundary])


def test_chunks_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations_module, "_CHUNK_BYTES", 4 * 64 * 3)
    guide = make_guide()
    sizes: list[int] = []
    for part in guide.parts[:2]:
        part.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    torch.testing.assert_close(rounded(guide).at(2), by_hand(2), rtol=0.01, atol=0.01)
    assert sizes == [*[3] * 13, 1, *[12] * 3, 4]


def test_a_boundary_is_computed_only_when_asked_and_from_the_nearest_before() -> None:
    guide = make_guide()
    found = rounded(guide)
    found.at(2)
    assert seen(guide) == [40, 40, 0, 0, 0]
    found.at(4)
    found.at(1)
    assert seen(guide) == [40, 40, 40, 40, 0]


def test_memory_is_bounded_and_what_is_on_disk_is_read_again(tmp_path: Path) -> None:
    one = 40 * 16 * 2
    guide = make_guide()
    found = rounded(guide, tmp_path, limit_bytes=2 * one)
    wanted = [found.at(boundary).clone() for boundary in range(1, PARTS + 1)]
    assert list(found._found) == [4, 5]
    sizes = [path.stat().st_size for path in tmp_path.glob("*.npy")]
    assert len(sizes) == PARTS and all(one <= size < one + 200 for size in sizes)
    assert torch.equal(found.at(2), wanted[1])
    assert list(found._found) == [5, 2] and seen(guide) == [40] * PARTS
    # Another process computes none of it.
    other = make_guide()
    assert torch.equal(rounded(other, tmp_path).at(5), wanted[4]) and seen(other) == [0] * PARTS


def test_without_a_folder_what_was_dropped_is_computed_again() -> None:
    guide = make_guide()
    found = rounded(guide, limit_bytes=40 * 16 * 2)
    last = found.at(5).clone()
    assert list(found._found) == [5]
    found.at(1)
    assert torch.equal(found.at(5), last) and seen(guide) == [80, 80, 80, 80, 80]


def test_a_lost_or_damaged_file_is_made_again(tmp_path: Path) -> None:
    wanted = rounded(make_guide(), tmp_path).at(3).clone()
    for name in ("boundary-2", "boundary-3"):
        (path,) = tmp_path.glob(f"*-{name}-bfloat16.npy")
        path.write_bytes(path.read_bytes()[:-4])
    guide = make_guide()
    assert torch.equal(rounded(guide, tmp_path).at(3), wanted)
    assert seen(guide) == [0, 40, 40, 0, 0]


def test_exact_and_rounded_activations_have_files_of_their_own(tmp_path: Path) -> None:
    rounded(make_guide(), tmp_path).at(1)
    exact = GuideActivations(make_guide(), SAMPLE, CPU, folder=tmp_path).at(1)
    assert torch.equal(exact, GuideActivations(make_guide(), SAMPLE, CPU).at(1))
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_channels_chosen_by_rounded_activations_have_a_file_of_their_own(tmp_path: Path) -> None:
    """Else what a library's block is would depend on which recipe came first."""
    dtypes: tuple[ActivationsDtype, ...] = ("bfloat16", "float32")
    for dtype in dtypes:
        limit = 1 << 20
        found = GuideActivations(make_guide(), SAMPLE, CPU, limit, tmp_path, dtype, selects=True)
        assert len(found.channels(1, 8)) == 8
    assert len(list(tmp_path.glob("*-stream-*.npy"))) == 2


def test_only_exact_activations_shorten_the_sample() -> None:
    guide = make_guide()
    example = 4 * (64 + PARTS * 16)
    assert sample_size(guide, 40, 10 * example) == 10
    assert sample_size(guide, 40, 10 * example, "bfloat16") == 40


def test_infinite_activations_are_refused_with_the_part() -> None:
    guide = make_guide()
    with torch.no_grad():
        guide.parts[1].linear.bias[0] = torch.nan  # type: ignore[union-attr,index]
    with pytest.raises(
        ConversionError, match="NaN or infinite values at boundary 2, after part '1'"
    ):
        rounded(guide).at(3)


def test_hidden_states_of_other_inputs_come_from_one_pass() -> None:
    guide = make_guide()
    found = rounded(guide).states(SAMPLE[:7], {2, 5})
    assert seen(guide) == [7] * PARTS and found.keys() == {2, 5}
    assert torch.equal(found[5], guide(SAMPLE[:7])) and not found[2].requires_grad
