"""Values of a comparison by stitching: the recipe, pairs of boundaries, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from nas_theseus.storage.json_files import number, text, whole
from nas_theseus.values.ids import short_hash
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.validation import Epochs, Positive, PositiveFloat, Settings

Start = Literal["least-squares", "kaiming"]

# Sender first. Source: Hernandez, Dangovski, Lu 2023, section 1.5.
CONTROLS: dict[str, tuple[bool, bool]] = {
    "trained-trained": (True, True),
    "trained-random": (True, False),
    "random-trained": (False, True),
    "random-random": (False, False),
}


class StitchRecipe(Settings):
    """How the stitch of a cell is trained and evaluated; prefix and suffix never change.

    Attributes:
        start: weights before training: the least-squares solution, or torch's own (Kaiming).
        loss: the task's loss through the frozen suffix, or the error of the representation that the
            receiver expects (the representation data set).
        examples: number of training inputs to fit and train the stitch.
        score_examples: number of validation inputs to evaluate it.
        cka_examples: number of training inputs whose features CKA compares.
        epochs: passes over `examples`; 0 does not train the stitch.
    """

    start: Start = "least-squares"
    loss: Literal["task", "representation"] = "task"
    examples: Positive = 2048
    score_examples: Positive = 1000
    cka_examples: Annotated[int, Field(ge=4)] = 512
    epochs: Epochs = 2.0
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: PositiveFloat = 3e-3

    @property
    def training(self) -> Recipe:
        """The same settings as a recipe for task training."""
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            distill=0.0,
        )

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, equal for equal recipes."""
        return short_hash(self.model_dump(), 8)


@dataclass(frozen=True, order=True)
class Endpoint:
    """One side of a stitch: a network, trained or random, and one of its boundaries.

    Attributes:
        network: label of the network.
        trained: False for the twin with random weights.
        boundary: parts of a sender before it are the prefix, parts of a receiver after it the
            suffix.
    """

    network: str
    trained: bool
    boundary: int

    @property
    def id(self) -> str:
        return f"{self.network}-{'trained' if self.trained else 'random'}-{self.boundary}"

    @property
    def title(self) -> str:
        """Name of its row of stitches in dashboards."""
        return f"stitches of {self.id}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Endpoint:
        return cls(text(data["network"]), bool(data["trained"]), whole(data["boundary"]))


@dataclass(frozen=True)
class Cell:
    """Result of one stitch.

    Attributes:
        quality: the task's metric of the stitched network on validation inputs.
        start_quality: the same before the stitch was trained.
        cka: linear CKA between the sender's and the receiver's features.
        residual: share of the receiver's variance that least squares left unexplained; None with
            another start.
        seconds: time for this cell alone, without computing activations.
    """

    sender: Endpoint
    receiver: Endpoint
    quality: float
    start_quality: float
    cka: float
    residual: float | None
    seconds: float

    @property
    def id(self) -> str:
        return cell_id(self.sender, self.receiver)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        sides = {side: Endpoint.from_json(data[side]) for side in ("sender", "receiver")}
        found = cls(**{**data, **sides})
        for one in (found.quality, found.start_quality, found.cka, found.seconds):
            number(one)
        if found.residual is not None:
            number(found.residual)
        return found


def cell_id(sender: Endpoint, receiver: Endpoint) -> str:
    """Name of a cell's file, without suffix."""
    return f"{sender.id}--{receiver.id}"
