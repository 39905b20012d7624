"""Keys of blocks: every ingredient counts, nothing else does, and processes agree."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_theseus import Recipe
from nas_theseus.errors import PairingError
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.fingerprint import fingerprint
from nas_theseus.values.recipe import ALIGNMENT, SimilarityOptions

SPACE = '''
"""A space with a block of its own."""
import torch
from torch import nn
from nas_theseus import Recipe, SearchSpace, block, choice, cut
from nas_theseus.blocks import Basic, Keep
from nas_theseus.tasks import digits


class Inner(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class Mine(nn.Module):
    def __init__(self, inlet, outlet, hidden=4):
        super().__init__()
        self.first = nn.Conv2d(inlet.width, hidden, 3, padding=1)
        self.act = Inner()
        self.last = nn.Conv2d(hidden, outlet.width, 1)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def space():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )
    return SearchSpace(
        guide=cut(net, ["0", "2"], (1, 8, 8)), task=digits(), widths=[1.0, 0.5], max_span=2,
        blocks=[Keep(), Mine_family, Basic(width=choice(0.5, 1))],
        recipe=Recipe(align_examples=64, epochs=1),
    )


Mine_family = block(Mine, hidden=choice(4, 8))
'''

MINE = BlockChoice(Span(1, 2), "mine", (("hidden", 4),))


def key_of(folder: Path, text: str = SPACE, chosen: BlockChoice = MINE) -> BlockKey:
    return BlockKeys(load_space(write_space(folder, text))).of(chosen)


def write_space(folder: Path, text: str = SPACE) -> Path:
    path = folder / "small.py"
    path.write_text(text)
    return path


KEY = BlockKey(
    guide="g" * 16, data="d" * 16, span=Span(1, 3), block="mine",
    hyperparameters=(("depth", 2), ("hidden", 4)), inlet=Boundary((4, 8, 8)),
    outlet=Boundary((8, 4, 4)), code="c" * 16, recipe=Recipe(),
)  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"guide": "h" * 16}, {"data": "e" * 16}, {"span": Span(1, 2)}, {"block": "other"},
        {"hyperparameters": (("depth", 2), ("hidden", 8))}, {"hyperparameters": ()},
        {"inlet": Boundary((2, 8, 8))}, {"outlet": Boundary((4, 4, 4))}, {"code": "x" * 16},
        {"format": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_every_ingredient_changes_the_id(changed: dict[str, object]) -> None:
    other = replace(KEY, **changed)  # type: ignore[arg-type]
    assert other.id != KEY.id
    assert other.seed != KEY.seed


def test_a_key_names_the_guides_parts_and_they_change_no_id() -> None:
    named = replace(KEY, span=Span(1, 3, ("layer1.0", "layer1.1")))
    assert named == KEY and named.id == KEY.id
    assert str(named) == "mine(depth=2, hidden=4) for parts layer1.0–layer1.1"
    assert str(BlockKey.from_json(named.to_json())) == str(named)
    assert "parts" not in KEY.to_json() and str(KEY) == "mine(depth=2, hidden=4) for parts 1-2"


def test_keys_of_a_space_name_its_parts(tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path))
    (choice,) = (c for c in space.choices(space.span(1, 2)) if c == MINE)
    assert str(BlockKeys(space).of(choice)) == f"mine(hidden=4) for part {space.guide.names[1]}"


def test_of_the_recipe_what_alignment_depends_on_changes_the_id() -> None:
    other = {
        "similarity": "dmnn", "similarity_options": SimilarityOptions(pool=4),
        "align_examples": 64, "align_steps": 7, "plateau": 0.1, "align_batch_size": 32,
        "align_learning_rate": 0.1, "weight_decay": 0.5, "gradient_clip": 0.5,
        "activations_dtype": "bfloat16",
    }  # fmt: skip
    assert other.keys() == ALIGNMENT
    ids = {replace(KEY, recipe=Recipe(**{name: value})).id for name, value in other.items()}
    assert len(ids | {KEY.id}) == len(other) + 1
    same = Recipe(
        schedule="joint", order="reverse", epochs=9, hybrid_epochs=1, batch_size=8, distill=0,
        learning_rate=1, temperature=5, recalibrate=False, library=True, polish_steps=3,
        settle_epochs=1, settle_batch_size=4, settle_learning_rate=1, settle_steps=3, steps=5,
        micro_batch=2, warmup=0, kept_learning_rate=2, freeze_kept=("a",), hidden=1,
        freeze_statistics=True,
        precision="bfloat16", checkpointing=True, divergence_examples=9,
    )  # fmt: skip
    assert {*same.model_fields_set, *other} == set(Recipe.model_fields)
    assert replace(KEY, recipe=same) == KEY


def test_the_order_of_hyperparameters_does_not_change_a_key() -> None:
    other = replace(KEY, hyperparameters=KEY.hyperparameters[::-1])
    assert other == KEY and other.id == KEY.id


def test_a_key_survives_json() -> None:
    assert BlockKey.from_json(KEY.to_json()) == KEY


def test_a_seed_comes_from_the_key_alone() -> None:
    torch.manual_seed(5)
    assert replace(KEY).seed == KEY.seed


def test_keys_are_the_same_in_another_process(tmp_path: Path) -> None:
    key = key_of(tmp_path)
    script = (
        "from nas_theseus.library.block_key import BlockKeys\n"
        "from nas_theseus.space.load import load_space\n"
        "from nas_theseus.values.architecture import BlockChoice, Span\n"
        "keys = BlockKeys(load_space('small.py'))\n"
        "print(keys.of(BlockChoice(Span(1, 2), 'mine', (('hidden', 4),))).id)\n"
    )
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": root}
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert printed.stdout.strip() == key.id


def test_a_space_s_keys_know_widths_hyperparameters_and_seen_examples(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(SPACE)
    space = load_space(path)
    keys = BlockKeys(space)
    narrow = BlockChoice(Span(0, 1), "basic", (("width", 1),), 0.5)
    architecture = Architecture((narrow, MINE, BlockChoice(Span(2, 3), "keep")))
    first, second, kept = keys.of_blocks(architecture)
    assert kept is None and first is not None and second is not None
    assert first.outlet == second.inlet == Boundary((2, 8, 8))
    assert second != keys.of(MINE)
    assert first.recipe.align_examples == 64
    everything = BlockKeys(space, Recipe(align_examples=10**6)).of(MINE)
    assert everything.recipe.align_examples == space.task.size("train")
    with pytest.raises(PairingError, match="keeps the guide's part"):
        keys.of(architecture.choices[2])


def test_a_block_s_own_text_changes_its_key_and_another_s_does_not(tmp_path: Path) -> None:
    key = key_of(tmp_path)
    built_in = BlockChoice(Span(1, 2), "basic", (("width", 1),))
    assert key_of(tmp_path, SPACE.replace("epochs=1", "epochs=3")) == key
    edits = [
        ("self.act(self.first(x))", "self.act(-self.first(x))"),  # its own class
        ("torch.relu(x)", "torch.tanh(x)"),  # a class that it is built of
    ]
    for before, after in edits:
        text = SPACE.replace(before, after)
        assert text != SPACE
        assert key_of(tmp_path, text).code != key.code
        assert key_of(tmp_path, text, built_in) == key_of(tmp_path, SPACE, built_in)


def test_the_text_that_ran_counts_not_what_the_file_says_now(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(SPACE)
    key = BlockKeys(load_space(path)).of(MINE)
    path.write_text("raise ValueError")
    assert BlockKeys(load_space(Sources(str(path), SPACE))).of(MINE) == key
    path.unlink()
    assert BlockKeys(load_space(Sources(str(path), SPACE))).of(MINE) == key


def test_a_guide_of_equal_weights_that_computes_something_else_has_other_keys(
    tmp_path: Path,
) -> None:
    other = SPACE.replace("nn.ReLU()", "nn.GELU()")
    assert key_of(tmp_path, other).guide != key_of(tmp_path).guide


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


def test_fingerprints_see_settings_but_not_weights_or_mode() -> None:
    assert fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2).eval())
    assert fingerprint(nn.Linear(2, 2)) != fingerprint(nn.Linear(2, 3))
    assert fingerprint(nn.Conv2d(2, 2, 3)) != fingerprint(nn.Conv2d(2, 2, 3, stride=2))
    assert fingerprint(Scaled(1.0)) != fingerprint(Scaled(2.0))
    made = nn.Linear(2, 2)
    makers = [functools.partial(Scaled, factor=1.0), functools.partial(Scaled, factor=2.0), Scaled]
    assert len({fingerprint(made, maker) for maker in makers}) == 3
