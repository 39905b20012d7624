"""What runs are told: names, data sets, system metrics, and MLflow's limits for long guides."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow.runs import run_name
from nas_theseus.services.mlflow.system_metrics import SWITCH
from nas_theseus.values.architecture import Architecture, BlockChoice, span_of
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation, Failure, Stopped

PARTS = 60
NAMES = tuple(f"model.encoder.layers.{index:02}.feed_forward_sublayer" for index in range(PARTS))
DATA = {"task": "digits", "space": "mine.py", "data.hash": "0123456789abcdef"}
SIZES = {"data.train": 1077, "data.validation": 360, "data.test": 360}


def architecture(*blocks: str) -> Architecture:
    return Architecture(
        tuple(BlockChoice(span_of(i, i + 1, blocks), block) for i, block in enumerate(blocks))
    )


def long_architecture(number: int) -> Architecture:
    """Sixty parts with long names, and a block with long options for each."""
    options = tuple((f"a_long_name_of_an_option_{index}", number + index) for index in range(8))
    return Architecture(
        tuple(
            BlockChoice(span_of(index, index + 1, NAMES), f"block_of_a_user_{index}", options)
            for index in range(PARTS)
        )
    )


def long_evaluation(number: int) -> Evaluation:
    curve = tuple(
        CurvePoint(f"{kind}/{part}", step, 0.5)
        for kind in ("similarity", "divergence", "stitch_residual")
        for part in range(PARTS)
        for step in range(12)
    )
    notes = tuple(f"{name} was left as it is, for a reason that is long" * 4 for name in NAMES)
    cost = Cost({"macs": 10**12, "params": 10**9})
    one = long_architecture(number)
    return Evaluation(one, "full", 0, {"val_accuracy": 0.5}, cost, 9, 1.0, curve, notes)


def only(uri: str, query: str) -> Run:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], query)
    return run


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (("keep", "keep"), "all parts kept"),
        (("linear", "keep", "depthwise", "depthwise"), "depthwise ×2, linear"),
        (("a", "b", "c", "d", "e", "e"), "e ×2, a, b, 2 more"),
        (("x" * 300, "keep"), "x" * 90 + "…"),
    ],
)
def test_names_begin_with_the_id_and_count_the_new_blocks(
    blocks: tuple[str, ...], said: str
) -> None:
    one = architecture(*blocks)
    assert run_name(one) == f"{one.id[:8]} {said}"


def test_sixty_parts_keep_to_mlflows_limits(new: Callable[..., MlflowTracker], uri: str) -> None:
    done, stopped = long_evaluation(1), Stopped("epoch_1", long_evaluation(2), {"val": 0.5})
    failed = Failure(long_architecture(3), "full", 0, "align", "too long\n" * 2000)
    assert len(done.architecture.blocks) > 6000 and len("\n".join(done.notes)) > 8000
    tracker = new()
    tracker.begin({**DATA, **SIZES, "constraints": "macs <= 1, " * 2000})
    for outcome in (done, stopped, failed):
        tracker.outcome(outcome)
    assert (tracker.end(), tracker.refused) == (0, 0)
    run = only(uri, f"tags.`theseus.architecture` = '{done.architecture.id}'")
    assert len(run.data.metrics) == 3 * PARTS + 5
    assert len(MlflowClient(uri).get_metric_history(run.info.run_id, "similarity/59")) == 12
    for one in (run, only(uri, "tags.`theseus.stage` = 'align'")):
        assert one.data.params["blocks"].startswith("block_of_a_user_0(a_long_name")
        assert all(len(text) <= 6000 for text in one.data.params.values())
        assert all(len(text) <= 8000 for text in one.data.tags.values())
        keys = [*one.data.params, *one.data.tags, *one.data.metrics]
        assert all(len(key) <= 250 for key in keys)
        assert one.info.run_name.endswith(
            "block_of_a_user_0, block_of_a_user_1, block_of_a_user_2, 57 more"
        )


def test_the_data_of_a_search_is_one_data_set(new: Callable[..., MlflowTracker], uri: str) -> None:
    for _ in range(2):  # a resumed search adds none
        tracker = new()
        tracker.begin({**DATA, **SIZES})
        assert (tracker.end(), tracker.refused) == (0, 0)
    (one,) = only(uri, "tags.`theseus.kind` = 'search'").inputs.dataset_inputs
    assert (one.dataset.name, one.dataset.digest) == ("digits", "0123456789abcdef")
    sizes = {"train": 1077, "validation": 360, "test": 360}
    assert json.loads(one.dataset.profile) == {"num_rows": 1797, **sizes}
    client = MlflowClient(uri)
    (found,) = client.search_runs(
        [client.get_experiment_by_name("nas-theseus").experiment_id],
        "dataset.digest = '0123456789abcdef'",
    )
    assert found.info.run_name == "first"


def sampled(uri: str) -> dict[str, list[int]]:
    """Steps of the system metrics of the search's run; none while there is no run."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    return {
        name: [m.step for m in client.get_metric_history(run.info.run_id, name)]
        for run in client.search_runs([experiment.experiment_id], "tags.`theseus.kind` = 'search'")
        for name in run.data.metrics
        if name.startswith("system/")
    }


def test_the_machine_is_sampled_and_a_resumed_search_goes_on(
    new: Callable[..., MlflowTracker], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psutil")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    cpu = "system/cpu_utilization_percentage"
    for _ in range(2):
        before = len(sampled(uri)[cpu]) if _ else 0
        tracker = new()
        tracker.begin({"trials": 1})
        end = time.monotonic() + 60
        while len(sampled(uri).get(cpu, [])) <= before:
            assert time.monotonic() < end, "nothing was sampled"
            time.sleep(0.1)
        assert tracker.end() == 0
    found = sampled(uri)
    assert found[cpu] == list(range(len(found[cpu])))  # no step twice
    assert "system/system_memory_usage_megabytes" in found
    time.sleep(0.3)
    assert sampled(uri) == found


def test_mlflows_own_switch_turns_sampling_off(
    new: Callable[..., MlflowTracker], uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setenv(SWITCH, "false")
    tracker = new()
    tracker.begin({"trials": 1})
    time.sleep(0.5)
    assert tracker.end() == 0
    assert only(uri, "tags.`theseus.kind` = 'search'") and sampled(uri) == {}
