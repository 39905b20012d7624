"""Which nodes have what a trial asks for, and how many trials they hold."""

from __future__ import annotations

from typing import Any

import pytest

from nas_theseus.errors import ServiceError, SpaceError
from nas_theseus.services.ray.requests import refuse_too_small, request_of, room, selected
from nas_theseus.values.resources import Resources
from nas_theseus.values.validation import validated


def node(**resources: float) -> dict[str, Any]:
    named = {name.replace("_type_", "_type:"): have for name, have in resources.items()}
    return {"NodeManagerAddress": "10.0.0.1", "Resources": named}


def settings(**given: object) -> Resources:
    return validated(Resources, given, "search")


def test_a_trial_asks_for_what_the_settings_say_and_for_nothing_else() -> None:
    assert request_of(settings(cpus=2)) == {"CPU": 2}
    asked = request_of(settings(gpus=0.5, accelerator_type="A100"))
    assert asked == {"CPU": 1, "GPU": 0.5, "accelerator_type:A100": 0.001}


@pytest.mark.parametrize(
    ("trial", "resources", "trials"),
    [
        ({"CPU": 2}, {"CPU": 5}, 2),
        ({"CPU": 1, "GPU": 1}, {"CPU": 8, "GPU": 4}, 4),
        ({"CPU": 1, "GPU": 0.5}, {"CPU": 8, "GPU": 4}, 8),
        ({"CPU": 1, "GPU": 0.4}, {"CPU": 8, "GPU": 2}, 4),  # two on each GPU, none on both
        ({"CPU": 1, "GPU": 2}, {"CPU": 8, "GPU": 5}, 2),
        ({"CPU": 1, "GPU": 1}, {"CPU": 8}, 0),
        ({"CPU": 1, "accelerator_type:A100": 0.001}, {"CPU": 8, "accelerator_type_T4": 1}, 0),
        ({"CPU": 1, "accelerator_type:T4": 0.001}, {"CPU": 8, "accelerator_type_T4": 1}, 8),
    ],
)  # fmt: skip
def test_how_many_trials_a_node_holds(
    trial: dict[str, float], resources: dict[str, float], trials: int
) -> None:
    assert room(node(**resources), trial) == trials


def test_a_cluster_without_room_for_a_trial_is_refused_with_what_it_has() -> None:
    trial = request_of(settings(gpus=1, accelerator_type="A100"))
    nodes = [node(CPU=8, GPU=2, accelerator_type_T4=1), node(CPU=4)]
    with pytest.raises(ServiceError) as told:
        refuse_too_small(nodes, trial)
    said = str(told.value)
    assert "asks for 1 CPU and 1 GPU of type A100 on one node" in said
    assert "8 CPU, 2 GPU (T4); 10.0.0.1 4 CPU, 0 GPU" in said and "--accelerator-type" in said
    refuse_too_small([*nodes, node(CPU=1, GPU=1, accelerator_type_A100=1)], trial)


def test_a_type_of_gpus_needs_gpus() -> None:
    with pytest.raises(SpaceError, match="accelerator_type: 'A100'.*--gpus-per-trial"):
        settings(accelerator_type="A100")
    with pytest.raises(SpaceError, match="accelerator_type: .*'A 100'"):
        settings(accelerator_type="A 100", gpus=1)


LABELS = {"ray.io/market-type": "spot", "zone": "b"}


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({}, True),
        ({"zone": "b"}, True),
        ({"zone": "b", "ray.io/market-type": "!spot"}, False),
        ({"zone": "in(a, b)"}, True),
        ({"zone": "!in(a,b)"}, False),
        ({"zone": "!a"}, True),
        ({"rack": "1"}, False),
        ({"rack": "!1"}, True),  # a node without the label has no value that could be wrong
    ],
)
def test_labels_select_nodes(selector: dict[str, str], fits: bool) -> None:
    assert selected({**node(CPU=4), "Labels": LABELS}, selector) is fits


def test_a_cluster_without_a_selected_node_is_refused_with_its_labels() -> None:
    nodes = [{**node(CPU=4), "Labels": {**LABELS, "ray.io/node-id": "f00"}}, node(CPU=4)]
    with pytest.raises(ServiceError) as told:
        refuse_too_small(nodes, {"CPU": 1}, {"zone": "a"})
    said = str(told.value)
    assert "--label-selector wants them, zone=a: 10.0.0.1 ray.io/market-type=spot, zone=b" in said
    assert "10.0.0.1 has none" in said and "f00" not in said
    refuse_too_small(nodes, {"CPU": 1}, {"zone": "b"})
    with pytest.raises(ServiceError, match="asks for 8 CPU .* no node with the labels of"):
        refuse_too_small(nodes, {"CPU": 8}, {"zone": "b"})


def test_label_selectors_are_read_and_checked() -> None:
    given = ["ray.io/market-type=spot", "zone=in(a, b)"]
    wanted = {"ray.io/market-type": "spot", "zone": "in(a, b)"}
    assert settings(label_selector=given).label_selector == wanted
    assert settings(label_selector=wanted).label_selector == wanted
    assert settings(label_selector=None).label_selector == {}
    for wrong, message in (
        ("spot", "'spot' must read KEY=VALUE"),
        (["a=1", "a=2"], r"a is given twice; use a=in\(A, B\)"),
        ("_a=1", "'_a' cannot be a label's key"),
        ("a=in(1", r"'in\(1' for a must be a value, !value"),
    ):
        with pytest.raises(SpaceError, match=f"label_selector: {message}"):
            settings(label_selector=wrong)
