"""Where the networks of a comparison come from: a search space's guide, or a ready network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_theseus.conversion.target import reinitialise
from nas_theseus.errors import SpaceError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import cut
from nas_theseus.guide.networks import SMALL_RESNETS, ready_network
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources, gather
from nas_theseus.tasks import Task, digits, fashion_mnist, image_folder
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """One network of a comparison; plain values, so that a worker can build it again.

    Attributes:
        name: ``SPACE.py`` for its guide, or a ready network (`nas_theseus.guide.networks.READY`).
        seed: of its weights before training, so that a network can be compared with its twin.
        task: of ready networks: ``fashion-mnist``, ``digits`` or a folder of images.
        sources: of the space file, if it is one.
        width: of ready networks that have a free one.
        epochs: that ready networks train.
    """

    name: str
    seed: int = 0
    task: str = "fashion-mnist"
    sources: Sources | None = None
    width: int = 16
    epochs: float = 4.0

    @property
    def label(self) -> str:
        """What results call it: ``resnet1212``, and ``resnet1212@1`` with another seed."""
        return Path(self.name).stem + (f"@{self.seed}" if self.seed else "")

    def build(self) -> tuple[Guide, Task, Recipe | None]:
        """The network before training, its task, and how it is trained (None: not at all).

        Raises:
            SpaceError: the space file cannot be read, or no network or task is called so.
        """
        if self.sources is not None:
            space = load_space(self.sources)
            guide, task, training = space.guide, space.learnt_from, space.guide_training
            if self.seed and training is not None:  # weights that were given have no other seed
                reinitialise_seeded(guide, self.seed)
            return guide, task, training
        task = _task(self.task)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("ready", self.label))
            channels, classes = task.inlet.shape[0], task.outputs.shape[0]
            network, cuts = ready_network(self.name, channels, classes, self.width)
        guide = cut(network, cuts, task.inlet.shape)
        return guide, task, Recipe(epochs=self.epochs, distill=0.0)

    def random_twin(self, guide: Guide) -> Guide:
        """A copy with random weights, never those that `guide` was trained from."""
        return reinitialise_seeded(copy.deepcopy(guide), derive_seed("random twin", self.label))


def reinitialise_seeded(guide: Guide, seed: int) -> Guide:
    """Random weights in place, batch-norm statistics as new."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reinitialise(guide)
    return guide


def _task(name: str) -> Task:
    known: dict[str, Callable[[], Task]] = {"fashion-mnist": fashion_mnist, "digits": digits}
    if name in known:
        return known[name]()
    if not Path(name).is_dir():
        raise SpaceError(
            "--task", [f"{name!r} is not {', '.join(known)} or a folder of images by class"]
        )
    return image_folder(name)


def read_sources(names: Sequence[str], task: str, width: int, epochs: float) -> list[Source]:
    """The networks that a person named; ``small-resnets`` stands for all sixteen.

    Args:
        names: each with ``@SEED`` behind it for another seed than 0.

    Raises:
        SpaceError: every name that cannot be, together.
    """
    found: list[Source] = []
    mistakes: list[str] = []
    for given in (
        n for name in names for n in (SMALL_RESNETS if name == "small-resnets" else [name])
    ):
        name, _, seed = given.partition("@")
        if seed and not seed.isdecimal():
            mistakes.append(f"{given!r}: behind @ stands a seed, a whole number")
            continue
        if name.endswith(".py"):
            path = Path(name)
            if not path.is_file():
                mistakes.append(f"{name!r}: no such file")
                continue
            sources: Sources | None = gather(path)
            name = str(path.resolve())
        else:
            sources = None
        found.append(Source(name, int(seed or 0), task, sources, width, epochs))
    named: dict[str, Source] = {}
    for source in found:
        other = named.setdefault(source.label, source)
        if other.name != source.name:
            mistakes.append(
                f"{other.name} and {source.name} are both called {source.label!r} in results; "
                "rename one of the files"
            )
    if mistakes:
        raise SpaceError("networks to stitch", mistakes)
    return found


def pairs_of(sources: Sequence[Source], every: bool) -> list[tuple[Source, Source]]:
    """Ordered pairs of sender and receiver; a network meets its twin of the next seed.

    Args:
        every: all ordered pairs of the sources; else the one pair given (one source: with itself).

    Raises:
        SpaceError: neither one nor two sources, and not `every`.
    """
    if every:
        pairs = [(a, b) for a in sources for b in sources]
    elif 1 <= len(sources) <= 2:
        pairs = [(sources[0], sources[-1])]
    else:
        raise SpaceError(
            "networks to stitch",
            [f"{len(sources)} are given: name one or two, or add --all for every ordered pair"],
        )
    return [(a, b if a != b else Source(**{**vars(b), "seed": b.seed + 1})) for a, b in pairs]
