"""Windows pair boundaries of equal scale, share a stitch, and never stitch a pair twice."""

from __future__ import annotations

import pytest

from nas_theseus.errors import ShapeError
from nas_theseus.stitching.windows import equal_scale, sliding_windows, stages
from nas_theseus.values.architecture import Boundary


def chain(*shapes: tuple[int, ...]) -> list[Boundary]:
    """Boundaries of a network with these inner ones."""
    return [Boundary(shape) for shape in ((1, 16, 16), *shapes, (10,))]


SMALL, MIDDLE = (4, 8, 8), (8, 4, 4)


def test_stages_are_runs_of_equal_shape() -> None:
    assert stages(chain(SMALL, SMALL, MIDDLE)) == [range(1, 3), range(3, 4)]


def test_paired_windows_of_two_moved_by_one() -> None:
    # Pan et al. 2023, figure 5 left: depth 3, k = 2, s = 1.
    net = chain(SMALL, SMALL, SMALL)
    first, second = sliding_windows(net, net, 2, 1)
    assert first.pairs == ((1, 1), (1, 2), (2, 1), (2, 2))
    assert second.pairs == ((2, 3), (3, 2), (3, 3))


def test_a_window_of_one_joins_like_to_like() -> None:
    net = chain(SMALL, SMALL, MIDDLE)
    assert [w.pairs for w in sliding_windows(net, net, 1, 1)] == [((1, 1),), ((2, 2),), ((3, 3),)]


def test_unpaired_boundaries_follow_the_nearest_of_the_shallower_anchor() -> None:
    shallow, deep = chain(SMALL, SMALL), chain(*[SMALL] * 4)
    up = [w.pairs for w in sliding_windows(shallow, deep, 1, 1)]
    assert up == [((1, 1), (1, 2)), ((2, 3), (2, 4))]
    down = [w.pairs for w in sliding_windows(deep, shallow, 1, 1)]
    assert down == [((1, 1), (2, 1)), ((3, 2), (4, 2))]


def test_no_pair_twice_and_no_pair_across_stages() -> None:
    front, back = chain(*[SMALL] * 3, *[MIDDLE] * 2), chain(*[SMALL] * 5, *[MIDDLE] * 4)
    pairs = [pair for w in sliding_windows(front, back, 2, 1) for pair in w.pairs]
    assert len(pairs) == len(set(pairs))
    assert all((p <= 3) == (q <= 5) for p, q in pairs)
    assert {p for p, _ in pairs} == set(range(1, 6)) and {q for _, q in pairs} == set(range(1, 10))


def test_a_larger_stride_gives_fewer_stitches() -> None:
    net = chain(*[SMALL] * 5)
    one, two = (sliding_windows(net, net, 2, stride) for stride in (1, 2))
    assert (len(one), len(two)) == (4, 3)
    assert two[-1].pairs == ((5, 5),)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ((4, 8, 8), (9, 8, 8), True),
        ((4, 8, 8), (4, 4, 4), False),
        ((65, 16), (65, 32), True),
        ((4, 8, 8), (65, 32), True),
        ((4, 8, 8), (63, 32), False),
        ((8,), (9,), True),
        ((8,), (9, 8), False),
    ],
)
def test_equal_scale(one: tuple, other: tuple, equal: bool) -> None:
    assert equal_scale(Boundary(one), Boundary(other)) is equal
    assert equal_scale(Boundary(other), Boundary(one)) is equal


def test_windows_that_do_not_fit_are_told_with_what_would() -> None:
    net = chain(SMALL, SMALL, MIDDLE)
    with pytest.raises(ShapeError, match=r"size 3 do not fit.*2× \(C,H,W\) = \(4, 8, 8\).*1 to 2"):
        sliding_windows(net, net, 3, 1)
    with pytest.raises(ShapeError, match="1 or more, not 1, 0"):
        sliding_windows(net, net, 1, 0)
    with pytest.raises(ShapeError, match=r"no stage of one anchor .*\(4, 7, 7\)"):
        sliding_windows(net, chain((4, 7, 7)), 1, 1)
