"""Rows are measured cell by cell, from kept files on, for every receiver of a sender."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas_theseus.errors import SpaceError
from nas_theseus.guide.weights import plain_state
from nas_theseus.stitching import rows as rows_module
from nas_theseus.stitching.cells import Endpoint, StitchRecipe
from nas_theseus.stitching.named_networks import Source, pairs_of, read_sources
from nas_theseus.stitching.rows import Pair, RowSettings, RowWorker
from nas_theseus.values.events import Ended

RECIPE = StitchRecipe(examples=64, score_examples=100, epochs=0.25, cka_examples=32)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RowSettings:
    folder = tmp_path_factory.mktemp("stitching")
    sources = [Source("resnet1111", seed, task="digits", width=4) for seed in (0, 1)]
    states = {}
    for source in sources:
        guide = source.build()[0]
        states[source.label, True] = plain_state(guide)
        states[source.label, False] = plain_state(source.random_twin(guide))
    a, b = (source.label for source in sources)
    pairs = (Pair(a, b, folder / "ab"), Pair(a, a, folder / "aa"))
    return RowSettings({s.label: s for s in sources}, states, pairs, RECIPE, 0, "cpu", 1)


def test_a_row_holds_every_receiver_and_goes_on_from_what_is_kept(
    settings: RowSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Endpoint("resnet1111", False, 5)
    assert sender.title == "stitches of resnet1111-random-5"
    made: list[str] = []
    measure = rows_module.measure

    def counting(*args: object) -> object:
        cell = measure(*args)  # type: ignore[arg-type]
        made.append(cell.id)
        return cell

    monkeypatch.setattr(rows_module, "measure", counting)
    events = RowWorker(settings)(sender)
    first = next(events)
    assert made == [first]
    events.close()  # killed after one cell
    damaged = settings.pairs[0].cell_file(sender, Endpoint("resnet1111@1", True, 2))
    damaged.write_text("{")
    # Boundaries: stem and four blocks; two receivers, trained and random.
    *rest, end = RowWorker(settings)(sender)
    assert end == Ended()
    assert len(rest) == 5 * 2 * 2 - 1 and first not in rest
    assert made == [first, *rest]
    assert list(RowWorker(settings)(sender)) == [Ended()]
    assert damaged.with_suffix(".damaged").exists()
    cell = settings.pairs[0].read(sender, Endpoint("resnet1111@1", True, 2))
    assert cell is not None and 0 <= cell.quality <= 1 and 0 <= cell.cka <= 1


def test_a_failing_row_says_why(settings: RowSettings, tmp_path: Path) -> None:
    few = RECIPE.model_copy(update={"examples": 2, "epochs": 0.0, "cka_examples": 4})
    pairs = (Pair("resnet1111", "resnet1111@1", tmp_path),)
    worker = RowWorker(replace(settings, recipe=few, pairs=pairs))
    *_, end = worker(Endpoint("resnet1111", True, 1))
    assert isinstance(end, Ended) and end.failure is not None
    assert "resnet1111-trained-1 → resnet1111@1-trained-3: least squares" in end.failure
    assert len(list(tmp_path.rglob("*.json"))) == 2  # what came before is kept


def test_sources_have_seeds_and_twins() -> None:
    first, second = read_sources(["resnet1212", "resnet1212@1"], "digits", 4, 1.0)
    assert (first.label, second.label) == ("resnet1212", "resnet1212@1")
    guides = [source.build()[0] for source in (first, first, second)]
    hashes = [guide.content_hash() for guide in guides]
    assert hashes[0] == hashes[1] != hashes[2]
    twin = first.random_twin(guides[0])
    assert twin.content_hash() == first.random_twin(guides[1]).content_hash() != hashes[0]


def test_pairs() -> None:
    family = read_sources(["small-resnets"], "digits", 4, 1.0)
    every = pairs_of(family, every=True)
    assert len(every) == 256 and len(set(every)) == 256
    assert all(a.label != b.label for a, b in every)
    assert [b.label for _, b in pairs_of(family[:1], every=False)] == ["resnet1111@1"]
    with pytest.raises(SpaceError, match="got 16 networks.*--all"):
        pairs_of(family, every=False)


def test_names_that_cannot_be_are_told_together() -> None:
    with pytest.raises(SpaceError, match=r"(?s)2 mistakes.*no_such\.py.*resnet18@x"):
        read_sources(["no_such.py", "resnet18@x"], "digits", 4, 1.0)
    with pytest.raises(SpaceError, match="fashion-mnist, digits"):
        Source("resnet18", task="nowhere").build()


def test_two_files_that_results_would_call_the_same_are_refused(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "search_spaces" / "digits.py").read_text()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(text)
    first, second = (str(tmp_path / folder / "net.py") for folder in ("a", "b"))
    with pytest.raises(SpaceError, match="a/net.py and .*net.py would both be named 'net'.*rename"):
        read_sources([first, second], "", 4, 1.0)
    assert len(read_sources([first, first], "", 4, 1.0)) == 2


def test_a_space_s_guide_is_a_source(tmp_path: Path) -> None:
    space = Path(__file__).parents[3] / "search_spaces" / "digits.py"
    source, other = read_sources([str(space), f"{space}@3"], "", 4, 1.0)
    guide, task, training = source.build()
    assert (source.label, task.name, training is not None) == ("digits", "digits", True)
    assert other.build()[0].content_hash() != guide.content_hash()
