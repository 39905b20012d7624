"""What every node of a Ray cluster must have before anything is trained: storage and packages."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas_theseus.errors import ServiceError
from nas_theseus.storage.whole_files import write_bytes

# Packages on which a worker's results, or its communication with the driver, depend.
PACKAGES = ("nas-theseus", "torch", "torchvision", "ray", "numpy", "pydantic", "safetensors")
ANSWER_S = 120.0


@dataclass(frozen=True)
class Answer:
    """The answer of one node.

    Attributes:
        node: its address.
        read: text that it found in the probe file; None if it could not read it.
        written: whether the driver found the file that it wrote beside the probe.
        versions: of Python and packages; None for one that is missing.
        error: why it could not read, write or answer.
    """

    node: str
    read: str | None
    written: bool
    versions: Mapping[str, str | None]
    error: str = ""


def check_nodes(folder: Path) -> None:
    """Have every node of the joined cluster read a file that the driver wrote, and write one.

    Args:
        folder: in the storage; the files are removed afterwards.

    Raises:
        ServiceError: lists all nodes that do not see the storage, cannot write there, have other
            versions of Python or packages, or do not answer.
    """
    mistakes = mistakes_of(ask_nodes(folder), versions_here(), folder)
    if mistakes:
        raise ServiceError(
            "\n".join(
                ["the cluster cannot run this search:", *(f"  - {line}" for line in mistakes)]
            )
        )


def ask_nodes(folder: Path) -> list[Answer]:
    """The answers of all nodes that are alive; they are asked at the same time.

    A node that dies meanwhile is left out.
    """
    token = uuid.uuid4().hex
    probe = folder.resolve() / f".probe-{token}"
    write_bytes(probe, token.encode())
    nodes = alive()
    asked = []
    for place, node in enumerate(nodes):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        on_node = _answer.options(num_cpus=0, scheduling_strategy=there)
        asked.append(on_node.remote(str(probe), f"{probe}-{place}", PACKAGES))
    answers = []
    try:
        ended, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
        still = {node["NodeID"] for node in alive()}
        for place, (node, answer) in enumerate(zip(nodes, asked, strict=True)):
            if node["NodeID"] not in still:
                continue
            address = str(node["NodeManagerAddress"])
            if answer not in ended:
                silence = f"no answer within {ANSWER_S:g} s"
                answers.append(Answer(address, None, False, {}, silence))
                continue
            try:
                content: dict[str, Any] = ray.get(answer)
            except RayError as error:
                answers.append(Answer(address, None, False, {}, str(error).splitlines()[-1]))
                continue
            written = Path(f"{probe}-{place}").exists()
            answers.append(Answer(address, written=written, **content))
    finally:
        for path in probe.parent.glob(f"{probe.name}*"):
            path.unlink(missing_ok=True)
    return answers


def alive() -> list[dict[str, Any]]:
    """The cluster's nodes that are alive, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def mistakes_of(answers: list[Answer], here: Mapping[str, str | None], folder: Path) -> list[str]:
    """What is wrong with each node, one line each."""
    mistakes = []
    for answer in answers:
        node = f"node {answer.node}"
        if not answer.versions:
            mistakes.append(f"{node} does not answer: {answer.error}; see 'ray status'")
            continue
        if answer.read is None or not answer.written:
            what = "read" if answer.read is None else "write"
            reason = f" ({answer.error})" if answer.error else ""
            mistakes.append(
                f"{node} cannot {what} what the driver sees in {folder}{reason}: give a --storage "
                "that is mounted at the same path on every node"
            )
        others = [
            f"{name} {there or 'not installed'} there, {here.get(name)} here"
            for name, there in answer.versions.items()
            if there != here.get(name)
        ]
        if others:
            mistakes.append(f"{node} has other versions: {'; '.join(others)}: install the same")
    return mistakes


def versions_here(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Versions of Python (its minor one) and packages in this process."""
    found: dict[str, str | None] = {"python": platform.python_version().rpartition(".")[0]}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _make_answer() -> Any:
    """Make the remote function, which is sent by value, since a node may lack this package."""

    def answer(probe: str, reply: str, packages: tuple[str, ...]) -> dict[str, Any]:
        import importlib.metadata
        import pathlib
        import platform

        versions: dict[str, str | None] = {"python": platform.python_version().rpartition(".")[0]}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = None
        read, error = None, ""
        try:
            read = pathlib.Path(probe).read_text()
            pathlib.Path(reply).write_text("seen")
        except OSError as problem:
            error = f"{problem.strerror}"
        return {"read": read, "versions": versions, "error": error}

    return ray.remote(answer)


_answer = _make_answer()
