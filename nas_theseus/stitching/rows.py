"""A worker's job in a comparison: one row, in which a sender is stitched into every receiver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nas_theseus.conversion.stitch_layer import make_stitch
from nas_theseus.errors import ShapeError, TheseusError
from nas_theseus.guide.chain import Guide
from nas_theseus.stitching.cells import CONTROLS, Cell, Endpoint, StitchRecipe, cell_id
from nas_theseus.stitching.measure import Examples, Side, measure
from nas_theseus.stitching.named_networks import Source
from nas_theseus.storage.json_files import MALFORMED, move_damaged, read_json
from nas_theseus.storage.whole_files import write_json
from nas_theseus.tasks import Task
from nas_theseus.values.events import Ended


@dataclass(frozen=True)
class Pair:
    """Two networks to compare, and the folder where their cells are saved."""

    sender: str
    receiver: str
    folder: Path

    def cell_file(self, sender: Endpoint, receiver: Endpoint) -> Path:
        return self.folder / "cells" / f"{cell_id(sender, receiver)}.json"

    def cells(self, sender: Guide, receiver: Guide) -> Iterator[tuple[Endpoint, Endpoint]]:
        """Every cell that can be stitched, for all four controls; outputs are no senders."""
        for trained in CONTROLS.values():
            for i in range(1, len(sender)):
                for j in range(1, len(receiver)):
                    try:
                        make_stitch(sender.boundaries[i], receiver.boundaries[j])
                    except ShapeError:
                        continue
                    yield (
                        Endpoint(self.sender, trained[0], i),
                        Endpoint(self.receiver, trained[1], j),
                    )

    def read(self, sender: Endpoint, receiver: Endpoint) -> Cell | None:
        """A saved cell; None if there is none, or if it is damaged and was moved aside."""
        path = self.cell_file(sender, receiver)
        try:
            return self._own(Cell.from_json(read_json(path)), sender, receiver)
        except FileNotFoundError:
            return None
        except MALFORMED:
            move_damaged(path)
            return None

    def _own(self, cell: Cell, sender: Endpoint, receiver: Endpoint) -> Cell:
        """The cell, if it is the one that its file's name says.

        Raises:
            ValueError: it is another one.
        """
        if (cell.sender, cell.receiver) != (sender, receiver):
            raise ValueError(f"it is the cell {cell.id}")
        return cell


@dataclass(frozen=True)
class RowSettings:
    """Everything a worker needs, as plain values that can be sent to any node.

    Attributes:
        sources: sources of the networks by label.
        states: state dicts of each network, trained and random, by (label, trained).
        threads: number of torch threads.
    """

    sources: Mapping[str, Source]
    states: Mapping[tuple[str, bool], Mapping[str, Tensor]]
    pairs: tuple[Pair, ...]
    recipe: StitchRecipe
    seed: int
    device: str
    threads: int


class RowWorker:
    """Measures rows; a sender's activations are computed once for all receivers of its row."""

    def __init__(self, settings: RowSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        # Activations of a few networks at a time: those of a whole family may not fit into memory.
        self._side = lru_cache(maxsize=4)(self._make_side)

    @cached_property
    def _task(self) -> Task:
        return next(iter(self._settings.sources.values())).build()[1]

    @cached_property
    def _examples(self) -> tuple[Examples, Examples]:
        recipe, device = self._settings.recipe, torch.device(self._settings.device)
        return (
            Examples.of(self._task, "train", recipe.examples, device),
            Examples.of(self._task, "validation", recipe.score_examples, device),
        )

    def _make_side(self, label: str, trained: bool) -> Side:
        network = self._settings.sources[label].build()[0]
        network.load_state_dict(dict(self._settings.states[label, trained]))
        return Side(network.to(self._settings.device), *self._examples)

    def __call__(self, job: Endpoint) -> Iterator[str | Ended]:
        """Yield each cell after it was saved, then the end of the row."""
        try:
            yield from self._row(job)
        except TheseusError as error:
            yield Ended(str(error))
        else:
            yield Ended()

    def _row(self, sender: Endpoint) -> Iterator[str]:
        settings = self._settings
        targets = self._examples[0].targets, self._examples[1].targets
        front = self._side(sender.network, sender.trained)
        for pair in settings.pairs:
            if pair.sender != sender.network:
                continue
            network = self._side(pair.receiver, True).network
            for source, target in pair.cells(front.network, network):
                if source != sender or pair.read(source, target) is not None:
                    continue
                back = self._side(target.network, target.trained)
                cell = measure(
                    settings.recipe,
                    self._task,
                    (front, back),
                    (source, target),
                    targets,
                    settings.seed,
                )
                write_json(pair.cell_file(source, target), cell.to_json())
                yield cell.id


@dataclass(frozen=True)
class MakeRowWorker:
    """Makes the worker in the worker's process."""

    settings: RowSettings

    def __call__(self) -> RowWorker:
        return RowWorker(self.settings)
