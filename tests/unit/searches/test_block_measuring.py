"""Token latencies in a search: measured once, the same for all who read them, solved exactly."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import nas_theseus
from nas_theseus.cli.app import make_app
from nas_theseus.costs.block_measurements import BlockMeasurements, BlockMeter, measurement_id
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import CostError, LimitError, SpaceError, StorageError
from nas_theseus.estimate.space_graph import additive_space
from nas_theseus.searches.beginning import read_space, refuse_mistakes
from nas_theseus.searches.block_measuring import (
    BlockMeasuring,
    known_costs,
    read_measurements,
    sum_errors,
)
from nas_theseus.searches.budget import answer, parse_budget
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.services.ray.tune import packed, unpacked
from nas_theseus.space.load import load_space
from nas_theseus.storage.checked_json import read_checked, write_checked
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Cost, Evaluation

SPACE = '''"""A GPT-like network of two layers over characters."""

import torch
from torch import nn

from nas_theseus import Guide, Recipe, SearchSpace, choice, maximize, minimize
from nas_theseus.blocks import FewerKeyValueHeads, Keep, NarrowMLP, SkipPart, SlidingWindow
from nas_theseus.costs.measures.decode_latency_ms import DecodeLatencyMs
from nas_theseus.costs.measures.kv_cache_bytes import KVCacheBytes
from nas_theseus.costs.measures.prefill_latency_ms import PrefillLatencyMs
from nas_theseus.guide.sublayers import MLP, Attention, Embedding, Head, Sublayer
from nas_theseus.tasks import text_file

WIDTH, CONTEXT = 16, 12


def attention():
    maps = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    return Sublayer(Attention(*maps, head_width=4), nn.LayerNorm(WIDTH))


def mlp():
    up, down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
    return Sublayer(MLP(up, down, nn.GELU()), nn.LayerNorm(WIDTH))


def space():
    task = text_file("BOOK", context=CONTEXT)
    table = nn.Embedding(task.outputs.width, WIDTH)
    head = nn.Linear(WIDTH, task.outputs.width, bias=False)
    head.weight = table.weight
    parts = [("embed", Embedding(table, positions=nn.Embedding(LONGEST, WIDTH)))]
    for layer in range(2):
        parts += [(f"attention{layer}", attention()), (f"mlp{layer}", mlp())]
    parts += [("head", Head(head, nn.LayerNorm(WIDTH)))]
    return SearchSpace(
        guide=Guide(parts, task.inlet), task=task, keep=["embed", "head"],
        blocks=[Keep(), SkipPart(), FewerKeyValueHeads(1), SlidingWindow(4), NarrowMLP(0.5)],
        objectives=[
            minimize("val_perplexity"), minimize(DecodeLatencyMs(context=20)),
            minimize(KVCacheBytes(context=20, dtype="bfloat16"), log=False),
        ],
        constraints=["prefill_latency_ms <= 1e4"],
        recipe=Recipe(epochs=0.05, align_steps=1, align_examples=16, align_batch_size=8),
    )
'''
COSTS = ("decode_latency_ms", "prefill_latency_ms")
OPTIONS = {"executor": "inline", "trackers": ["json-lines"]}


def write(folder: Path, text: str = SPACE, longest: int = 20, name: str = "gpt") -> Path:
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    path = folder / f"{name}.py"
    path.write_text(text.replace("BOOK", f"{folder}/text.txt").replace("LONGEST", str(longest)))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search."""
    folder: Path = tmp_path_factory.mktemp("latency")
    result = nas_theseus.search(write(folder), trials=3, storage=folder / "theseus", **OPTIONS)
    assert result.status.progress.done == 3 and not result.failures
    return folder


@pytest.fixture
def folder(root: Path) -> SearchFolder:
    return SearchFolder(root / "theseus", "gpt")


def every(space: nas_theseus.SearchSpace) -> list[Architecture]:
    """All architectures of a space whose blocks replace one part each."""
    choices = [list(space.choices(space.span(i, i + 1))) for i in range(len(space.guide))]
    return [Architecture(one) for one in product(*choices)]


def evaluations(folder: SearchFolder) -> list[Evaluation]:
    return [one for one in folder.outcomes() if isinstance(one, Evaluation)]


def test_candidates_have_the_sums_of_the_saved_numbers(folder: SearchFolder) -> None:
    space, saved = read_space(folder, trust_code=True), read_measurements(folder)
    assert saved is not None and saved.place.threads == 1
    found = evaluations(folder)
    assert len(found) == 3
    for one in found:
        built = [
            space.guide.parts[c.span.start] if c.block == "keep" else space.build(c)
            for c in one.architecture.choices
        ]
        for name in COSTS:
            total = sum(
                saved.numbers[measurement_id(space.measures[name], block, inlet)]
                for block, inlet in zip(built, space.guide.boundaries, strict=False)
            )
            assert one.cost[name] == pytest.approx(total, rel=1e-12)
            assert one.metrics[f"{name}_whole"] > 0
        assert known_costs(space, folder).of(one.architecture).known() == one.cost.known()


def test_options_of_costs_are_those_of_the_space(folder: SearchFolder) -> None:
    space = read_space(folder, trust_code=True)
    guide = next(o for o in evaluations(folder) if o.architecture == space.guide_architecture())
    # Two attentions, keys and values of 16 features, 20 tokens, two bytes each.
    assert guide.cost["kv_cache_bytes"] == 2 * 2 * 16 * 20 * 2
    assert space.own_costs == frozenset()


def test_the_front_says_how_far_sums_are_from_whole_networks(folder: SearchFolder) -> None:
    front = json.loads((folder.front / "front.json").read_text())
    said = json.dumps(front)
    errors = sum_errors(evaluations(folder), COSTS)
    assert errors.keys() == set(COSTS)
    for name, error in errors.items():
        assert f'"{name}_sum_error": {json.dumps(error)}' in said


def test_going_on_measures_nothing_again(root: Path, folder: SearchFolder) -> None:
    files = [folder.block_table, folder.block_measurements]
    before = [file.read_bytes() for file in files]
    result = nas_theseus.search(root / "gpt.py", trials=5, storage=folder.root, **OPTIONS)
    assert result.status.progress.done == 5
    again = nas_theseus.search(
        root / "gpt.py", trials=1, storage=folder.root, name="another", **OPTIONS
    )
    assert [file.read_bytes() for file in files] == before
    other = SearchFolder(folder.root, "another")
    assert read_measurements(other) == read_measurements(folder)
    assert again.guide["decode_latency_ms"] == result.guide["decode_latency_ms"]


def budget_at(costs: CostTable, share: float) -> str:
    """Limits at a share of the range of latency, and of the cache."""
    low, high = costs.range("decode_latency_ms")
    latency, cache = low + share * (high - low), share * costs.range("kv_cache_bytes")[1]
    return f"decode_latency_ms <= {latency!r} and kv_cache_bytes <= {cache!r}"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_two_limits_are_solved_exactly(folder: SearchFolder, share: float) -> None:
    """Against all architectures, for errors of blocks drawn at random."""
    space = read_space(folder, trust_code=True)
    costs = known_costs(space, folder)
    limits = parse_budget(budget_at(costs, share))
    known = {one: costs.of(one).known() for one in every(space)}
    allowed = [one for one in known if not any(limit.violation(known[one]) for limit in limits)]
    assert 0 < len(allowed) < len(known) == 144
    graph = additive_space(space, costs)
    for draw in range(5):
        errors = np.random.default_rng(draw).random(len(graph.options))
        error_of = {o.choice: e for o, e in zip(graph.options, errors, strict=True)}
        totals = {one: sum(error_of[choice] for choice in one.choices) for one in allowed}
        best = min(totals, key=lambda one: totals[one])
        found = graph.best(errors, 1, limits, epsilon=0.0)
        assert found.epsilon == 0 and found[0].architecture == best


def test_a_budget_on_latency_and_cache_is_answered(folder: SearchFolder) -> None:
    space = read_space(folder, trust_code=True)
    costs = known_costs(space, folder)
    limits = parse_budget(budget_at(costs, 0.6))
    found = answer(folder, limits, 2, trust_code=True)
    assert found.epsilon == 0 and len(found.predicted) == 2
    for one in found.predicted:
        assert dict(one.costs) == costs.of(one.architecture).known()
        assert not any(limit.violation(one.costs) for limit in limits)


def test_a_limit_that_nothing_keeps_is_told(folder: SearchFolder) -> None:
    with pytest.raises(LimitError, match="decode_latency_ms <= 1e-06: the closest has"):
        answer(folder, parse_budget("decode_latency_ms <= 1e-6"), trust_code=True)


def test_limits_on_measured_sums_are_checked_before_any_trial(tmp_path: Path) -> None:
    text = SPACE.replace("prefill_latency_ms <= 1e4", "prefill_latency_ms <= 1e-6")
    path = write(tmp_path, text)
    refuse_mistakes(load_space(path), "gpt.py")  # nothing is measured by a check
    with pytest.raises(SpaceError, match=r"no architecture meets .*'prefill_latency_ms <= 1e-06'"):
        nas_theseus.search(path, trials=2, storage=tmp_path / "theseus", **OPTIONS)
    assert not list(SearchFolder(tmp_path / "theseus", "gpt").outcomes())


def test_a_context_beyond_the_models_ends_the_search_before_any_trial(tmp_path: Path) -> None:
    path = write(tmp_path, longest=12)
    with pytest.raises(CostError, match="could not be measured: .* context of 20 tokens .*within"):
        nas_theseus.search(path, trials=2, storage=tmp_path / "theseus", **OPTIONS)
    folder = SearchFolder(tmp_path / "theseus", "gpt")
    assert not list(folder.outcomes())
    with pytest.raises(StorageError, match="has not measured decode_latency_ms.*continue it with"):
        known_costs(read_space(folder, trust_code=True), folder)


SHIFT = """
class Shift(nn.Module):
    def __init__(self, inlet, outlet):
        super().__init__()
        self.last = nn.Linear(inlet.width, outlet.width)

    def forward(self, x):
        return self.last(nn.functional.pad(x[:, :-1], (0, 0, 1, 0)))
"""


def test_a_block_that_cannot_generate_is_refused_by_the_check(tmp_path: Path) -> None:
    text = SPACE.replace("def space():", f"{SHIFT}\n\ndef space():")
    text = text.replace("NarrowMLP(0.5)]", "NarrowMLP(0.5), block(Shift)]").replace(
        "import Guide,", "import Guide, block,"
    )
    with pytest.raises(SpaceError, match="shift.*cannot generate text.*state_elements"):
        refuse_mistakes(load_space(write(tmp_path, text)), "gpt.py")


def test_numbers_of_another_machine_are_not_mixed_with_new_ones(
    root: Path, folder: SearchFolder, tmp_path: Path
) -> None:
    nas_theseus.search(root / "gpt.py", trials=1, storage=tmp_path, **OPTIONS)
    file = SearchFolder(tmp_path, "gpt").block_measurements
    data = read_checked(file)
    data["place"]["device"] = "another"
    write_checked(file, data)
    # Nothing is missing, so nothing is measured here.
    nas_theseus.search(root / "gpt.py", trials=2, storage=tmp_path, **OPTIONS)
    data["numbers"].popitem()
    write_checked(file, data)
    with pytest.raises(CostError, match="measured on another with 1 threads.* or choose another"):
        nas_theseus.search(root / "gpt.py", trials=3, storage=tmp_path, **OPTIONS)
    file.write_text("{")
    with pytest.raises(StorageError, match="is damaged"):
        nas_theseus.search(root / "gpt.py", trials=3, storage=tmp_path, **OPTIONS)


def test_convert_measures_where_it_runs(
    root: Path, folder: SearchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    chosen = evaluations(folder)[0].architecture
    (tmp_path / "chosen.json").write_text(json.dumps(chosen.to_json()))
    made = nas_theseus.convert(root / "gpt.py", "chosen.json", epochs=0, settle_epochs=0)
    space, file = load_space(root / "gpt.py"), tmp_path / "theseus" / "block_measurements.jsonl"
    before = file.read_bytes()
    threads = json.loads(before.splitlines()[0])["place"]["threads"]
    meter = BlockMeter(file, torch.device("cpu"), threads, guide=space.guide)
    assert CostTable(space, meter).of(chosen).known() == made.converted.evaluation.cost.known()
    assert file.read_bytes() == before


def test_the_job_travels_to_a_worker() -> None:
    job = BlockMeasuring(COSTS)
    assert unpacked(json.loads(json.dumps(packed(job)))) == job


def test_the_error_of_sums_is_the_median_of_relative_ones(folder: SearchFolder) -> None:
    one = evaluations(folder)[0]

    def made(total: float, whole: float) -> Evaluation:
        fields = {**vars(one), "cost": Cost({"a_ms": total}), "metrics": {"a_ms_whole": whole}}
        return Evaluation(**fields)

    found = [made(11, 10), made(8, 10), made(10, 10)]
    assert sum_errors(found, ["a_ms", "b_ms"]) == {"a_ms": pytest.approx(0.1)}
    assert sum_errors([], ["a_ms"]) == {}


def test_a_table_without_a_block_refuses_to_add_up(folder: SearchFolder) -> None:
    space = read_space(folder, trust_code=True)
    with pytest.raises(CostError, match="has not been measured"):
        CostTable(space, BlockMeasurements({})).range("decode_latency_ms")


def test_the_check_names_what_a_search_will_measure(root: Path) -> None:
    found = CliRunner().invoke(make_app(), ["check", str(root / "gpt.py")])
    assert found.exit_code == 0, found.output
    said = "measured block by block when a search begins: decode_latency_ms, prefill_latency_ms"
    assert said in " ".join(found.output.split())
    assert "kv_cache_bytes" in found.output
