"""Sources of the networks of a comparison: a search space's guide, or a ready network."""

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
    """One network of a comparison, as plain values from which a worker can build it.

    Attributes:
        name: ``SPACE.py`` for its guide, or a ready network (`nas_theseus.guide.networks.READY`).
        seed: seed of the weights before training, so that a network can be compared with its twin.
        task: task of ready networks: ``fashion-mnist``, ``digits`` or a folder of images.
        sources: sources of the space file, if the network comes from one.
        width: width of ready networks whose width is free.
        epochs: training epochs of ready networks.
    """

    name: str
    seed: int = 0
    task: str = "fashion-mnist"
    sources: Sources | None = None
    width: int = 16
    epochs: float = 4.0

    @property
    def label(self) -> str:
        """Name of the network in results: ``resnet1212``, or ``resnet1212@1`` with seed 1."""
        return Path(self.name).stem + (f"@{self.seed}" if self.seed else "")

    def build(self) -> tuple[Guide, Task, Recipe | None]:
        """The network before training, its task, and its training recipe (None: not trained).

        Raises:
            SpaceError: the space file cannot be read, or the network or task is unknown.
        """
        if self.sources is not None:
            space = load_space(self.sources)
            guide, task, training = space.guide, space.learnt_from, space.guide_training
            if self.seed and training is not None:  # given weights do not depend on a seed
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
        """A copy with random weights, different from those before the guide's training."""
        return reinitialise_seeded(copy.deepcopy(guide), derive_seed("random twin", self.label))


def reinitialise_seeded(guide: Guide, seed: int) -> Guide:
    """Reset weights to random ones and batch-norm statistics to their defaults, in place."""
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
            "--task", [f"{name!r} is none of {', '.join(known)}, nor a folder of images by class"]
        )
    return image_folder(name)


def read_sources(names: Sequence[str], task: str, width: int, epochs: float) -> list[Source]:
    """The sources of the named networks; ``small-resnets`` means all sixteen small ResNets.

    Args:
        names: names of networks, each optionally followed by ``@SEED``. Default seed: 0.

    Raises:
        SpaceError: names are invalid; the message lists all of them.
    """
    found: list[Source] = []
    mistakes: list[str] = []
    for given in (
        n for name in names for n in (SMALL_RESNETS if name == "small-resnets" else [name])
    ):
        name, _, seed = given.partition("@")
        if seed and not seed.isdecimal():
            mistakes.append(f"{given!r}: the seed after @ must be a whole number")
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
                f"{other.name} and {source.name} would both be named {source.label!r} in results; "
                "rename one of the files"
            )
    if mistakes:
        raise SpaceError("networks to stitch", mistakes)
    return found


def pairs_of(sources: Sequence[Source], every: bool) -> list[tuple[Source, Source]]:
    """Ordered pairs of sender and receiver; a network is paired with its twin of the next seed.

    Args:
        every: return all ordered pairs of the sources; otherwise the pair of the two sources, or
            of one source with its twin.

    Raises:
        SpaceError: without `every`, there are neither one nor two sources.
    """
    if every:
        pairs = [(a, b) for a in sources for b in sources]
    elif 1 <= len(sources) <= 2:
        pairs = [(sources[0], sources[-1])]
    else:
        raise SpaceError(
            "networks to stitch",
            [f"got {len(sources)} networks: name one or two, or add --all for every ordered pair"],
        )
    return [(a, b if a != b else Source(**{**vars(b), "seed": b.seed + 1})) for a, b in pairs]
