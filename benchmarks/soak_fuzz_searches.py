"""A search's folder, what others make of it, and how the product reads it."""

# ruff: noqa: D103  # makers and readers say by their names what they do

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.soak_points import SPACE


def searched(folder: Path) -> None:
    """A storage folder in which a small search has finished; it runs once."""
    for name, data in _searched().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@lru_cache(maxsize=1)
def _searched() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "small.py").write_text(SPACE)
        command = [sys.executable, "-m", "nas_theseus", "search", "small.py", "--trials", "4",
                   "--executor", "inline", "--tracker", "json-lines"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _folder(folder: Path) -> Any:
    from nas_theseus.searches.folder import SearchFolder

    return SearchFolder(folder / "theseus", "small")


def read_records(folder: Path) -> None:
    """As `front`, `report` and a resumed search read it."""
    from nas_theseus.searches.block_measuring import read_measurements
    from nas_theseus.searches.front_files import count_at_chance, front_rows
    from nas_theseus.searches.records import Records
    from nas_theseus.services.mlflow.outbox import Outbox
    from nas_theseus.services.mlflow.search_runs import RecordError
    from nas_theseus.space.sources import read_sources, source_files

    search = _folder(folder)
    records = Records.read(search)
    front_rows(records.members)
    count_at_chance(search)
    _ = records.guide, records.reference, records.rungs, records.parts, records.state
    for one in records.evaluations:
        assert all(map(_is_number, one.values().values())), f"{one.values()}"
        assert _is_number(one.seconds) and _is_number(one.train_macs_spent), "seconds or MACs"
    for block in records.blocks:
        assert _is_number(block.seconds), f"{block}"
    assert all(_is_number(x) for x in records.guide.values() if not isinstance(x, str)), "guide"
    read_measurements(search)
    search.run_ids()
    read_sources(search.folder)
    source_files(search.folder)
    outbox = Outbox(search.outbox)
    for path in outbox.records():
        try:
            outbox.load(path)
        except RecordError as error:
            outbox.set_aside(path, str(error))
    from nas_theseus.services.trackers.json_lines import JsonLinesTracker
    from nas_theseus.values.tracking import TrackerContext

    given = "small", "x" * 12, search.folder, search.outbox, search.runs_file
    JsonLinesTracker(TrackerContext(*given)).begin({})


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def read_report(folder: Path) -> None:
    from nas_theseus.searches.records import Records
    from nas_theseus.searches.report_page import write_report

    write_report(Records.read(_folder(folder)))


@lru_cache(maxsize=1)
def _space(path: Path) -> Any:
    from nas_theseus.space.load import load_space
    from nas_theseus.space.sources import gather

    return load_space(gather(path))


def read_journal(folder: Path) -> None:
    """As a search that is resumed opens its study, and proposes once more."""
    from nas_theseus.costs.table import CostTable
    from nas_theseus.estimate.thompson import Proposer
    from nas_theseus.searches.front_files import read_outcomes
    from nas_theseus.services.optuna.study import Problem, StudySettings, open_study
    from nas_theseus.space.genome import Genome

    search = _folder(folder)
    space = _space(folder / "small.py")
    costs = CostTable(space)
    known = {one.architecture: one for one in read_outcomes(search)}
    proposer = Proposer(space, costs, known=lambda one: one in known)
    problem = Problem(Genome(space), space.goals, space.limits, costs.of, (), proposer)
    study = open_study(StudySettings("small", search.journal, "theseus", 0), problem, known.get)
    proposal = study.propose()
    if proposal is not None:
        study.report(proposal, next(iter(known.values())))


def read_found(folder: Path) -> None:
    """As `nas_theseus.load` rebuilds a found network, with the user's consent."""
    from nas_theseus.errors import StorageError
    from nas_theseus.export.member import read_member

    found = sorted(path for path in (folder / "theseus/searches/small/front").iterdir()
                   if path.is_dir())  # fmt: skip
    member = read_member(found[0], trust_code=True)
    outputs = member.network(torch.zeros(1, 1, 8, 8))
    assert outputs.shape == (1, 10), f"{outputs.shape}"
    try:
        read_member(found[0])
    except StorageError:
        return
    raise AssertionError("code ran without consent")


def make_architecture(folder: Path) -> None:
    basic = {"span": [0, 2], "block": "basic", "hyperparameters": {"width": 0.5}}
    said = [basic | {"parts": ["a", "b"]}, {"span": [2, 3], "block": "keep", "hyperparameters": {}}]
    (folder / "architecture.json").write_text(json.dumps(said))
    (folder / "name.txt").write_text("small/0123456789ab")
    (folder / "theseus").mkdir()


def read_names(folder: Path) -> None:
    """Names, budgets and settings as they are given on the command line, and a file of one."""
    from nas_theseus import Recipe
    from nas_theseus.api.found import find_architecture, find_network
    from nas_theseus.api.search import settings_of
    from nas_theseus.errors import TheseusError
    from nas_theseus.searches.budget import parse_budget
    from nas_theseus.values.architecture_words import in_words
    from nas_theseus.values.validation import assigned

    # The operating system refuses NUL in arguments, and decodes them so.
    text = (folder / "name.txt").read_bytes().decode("utf-8", "surrogateescape").replace("\0", "")
    root = folder / "theseus"
    for call in (
        lambda: find_architecture(text, root),
        lambda: find_network(text, root, trust_code=False),
        lambda: parse_budget(text),
        lambda: parse_budget(f"macs<={text}"),
        lambda: assigned(Recipe(), [text, f"epochs={text}"], "recipe"),
        lambda: settings_of(Path(text or "x"), {"storage": root, "name": text}, "search"),
        lambda: settings_of(Path("x.py"), {"storage": root, "library": text}, "search"),
    ):
        try:
            call()
        except TheseusError:
            continue
    found = find_architecture(str(folder / "architecture.json"), root)
    _ = found.id, found.title, found.pairing, in_words(found), found.to_json()
    assert all(math.isfinite(choice.width_share) for choice in found.choices), "width"


def _pair(folder: Path) -> Any:
    from nas_theseus.stitching.cells import Endpoint
    from nas_theseus.stitching.rows import Pair

    return Pair("a", "b", folder), Endpoint("a", True, 1), Endpoint("b", False, 2)


def make_cell(folder: Path) -> None:
    from nas_theseus.stitching.cells import Cell

    pair, a, b = _pair(folder)
    (folder / "cells").mkdir()
    cell = Cell(a, b, 0.5, 0.4, 0.9, 0.1, 1.0)
    pair.cell_file(a, b).write_text(json.dumps(cell.to_json()))


def read_cell(folder: Path) -> None:
    pair, a, b = _pair(folder)
    found = pair.read(a, b)
    if found is not None:
        assert (found.sender, found.receiver) == (a, b), f"{found}"
        assert all(map(_is_number, (found.quality, found.start_quality, found.cka))), f"{found}"


def make_stitchable(folder: Path) -> None:
    from nas_theseus.stitching.stitchable import StitchableNet

    StitchableNet(_anchors()).save(folder / "net.safetensors")


def _anchors() -> list[Any]:
    from nas_theseus.guide.chain import Guide
    from nas_theseus.stitching.anchors import Anchor
    from nas_theseus.tasks import digits
    from nas_theseus.values.architecture import Boundary

    def network(width: int) -> Guide:
        torch.manual_seed(width)
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        parts = [("0", flat), ("1", nn.Linear(width, width)), ("2", nn.Linear(width, 10))]
        return Guide(parts, Boundary((1, 8, 8)))

    return [Anchor(f"a{width}", network(width), digits()) for width in (4, 8)]


def read_stitchable(folder: Path) -> None:
    from nas_theseus.stitching.stitchable import StitchableNet

    net = StitchableNet.load(folder / "net.safetensors", _anchors())
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def make_environment(folder: Path) -> None:
    (folder / "env.yaml").write_text(
        "env_vars:\n  A: b\npip: [numpy]\nworking_dir: .\nconfig:\n  setup_timeout_seconds: 60\n"
    )


def read_environment(folder: Path) -> None:
    from nas_theseus.services.ray.runtime_environment import runtime_environment

    runtime_environment(folder / "env.yaml")
