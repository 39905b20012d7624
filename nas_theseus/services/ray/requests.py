"""What one trial asks for, which nodes of a cluster have it, and how many trials fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nas_theseus.errors import ServiceError
from nas_theseus.values.resources import Resources

UNITS = ("CPU", "GPU")
# Ray's resource that says which accelerators a node has; every node has 1 of its own types.
LABEL = "accelerator_type:"
# Ray itself requests this small amount when a type is asked for.
LABEL_SHARE = 0.001
# Of a node, as `ray.nodes` gives it.
Node = Mapping[str, Any]


def request_of(resources: Resources) -> dict[str, float]:
    """What one trial asks for, by Ray's names of resources."""
    asked = {"CPU": resources.cpus, "GPU": resources.gpus}
    if resources.accelerator_type is not None:
        asked[LABEL + resources.accelerator_type] = LABEL_SHARE
    return {name: wanted for name, wanted in asked.items() if wanted}


def room(node: Node, trial: Mapping[str, float]) -> int:
    """How many trials a node holds at once."""
    return min(_fit(node["Resources"].get(name, 0.0), name, share) for name, share in trial.items())


def _fit(have: float, name: str, share: float) -> int:
    if name == "GPU" and share < 1:
        return int(have) * int(1 / share)  # a share is always of one GPU, never spread over two
    return int(have / share)


def selected(node: Node, labels: Mapping[str, str]) -> bool:
    """Whether a node's labels are as a selector wants them; a missing label equals no value."""
    have = node.get("Labels", {})
    for key, wanted in labels.items():
        text = wanted.removeprefix("!")
        listed = text.removeprefix("in(").removesuffix(")") if text.startswith("in(") else text
        among = have.get(key) in re.split(r", ?", listed)
        if among == wanted.startswith("!"):
            return False
    return True


def refuse_too_small(
    nodes: Sequence[Node], trial: Mapping[str, float], labels: Mapping[str, str] | None = None
) -> None:
    """Refuse to start if no node can hold one trial; the message says what the nodes have.

    Args:
        labels: what the labels of its node must be.

    Raises:
        ServiceError: no node can; with an autoscaler, no node that runs now.
    """
    fitting = [node for node in nodes if selected(node, labels or {})]
    if labels and not fitting:
        wanted = " and ".join(f"{key}={value}" for key, value in labels.items())
        there = "; ".join(f"{node['NodeManagerAddress']} {_labels_of(node)}" for node in nodes)
        raise ServiceError(
            f"no node of the cluster has labels as --label-selector wants them, {wanted}: {there}. "
            "Give others, or add such a node: ray start --labels KEY=VALUE (an autoscaler needs "
            "min_workers: 1 of its kind)"
        )
    if any(room(node, trial) for node in fitting):
        return
    nodes = fitting
    asked = " and ".join(f"{wanted:g} {name}" for name, wanted in trial.items() if name in UNITS)
    kinds = [name.removeprefix(LABEL) for name in trial if name.startswith(LABEL)]
    asked += "".join(f" of type {kind}" for kind in kinds)
    has = "; ".join(f"{node['NodeManagerAddress']} {_described(node)}" for node in nodes)
    of = "with the labels of --label-selector" if labels else "of the cluster"
    other = ", give another --accelerator-type" if kinds else ""
    raise ServiceError(
        f"one trial asks for {asked} on one node, and no node {of} has that: {has}. "
        f"Lower --cpus-per-trial or --gpus-per-trial{other}, or add such a node (an autoscaler "
        "needs min_workers: 1 of its kind)"
    )


def _labels_of(node: Node) -> str:
    """A node's labels as text, without the id that Ray gives each node."""
    have = {key: v for key, v in node.get("Labels", {}).items() if key != "ray.io/node-id"}
    return ", ".join(f"{key}={value}" for key, value in sorted(have.items())) or "has none"


def _described(node: Node) -> str:
    """A node's cores and GPUs, with their type, as text."""
    have = node["Resources"]
    kinds = [name.removeprefix(LABEL) for name in have if name.startswith(LABEL)]
    described = ", ".join(f"{have.get(unit, 0):g} {unit}" for unit in UNITS)
    return described + (f" ({', '.join(kinds)})" if kinds else "")
