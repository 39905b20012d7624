"""The protocol of similarities, and selection by name.

The package's similarities are the files of `similarities/`. CKA and D-MNN ignore rotation and
scale, so a part aligned with them has its own basis and needs a stitch (`stitch_layer`) to fit into
the guide. Regression and cosine also align the basis. A space file adds its own similarity with
``Recipe(similarity=MySimilarity())``.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from nas_theseus.conversion.features import centred, wide
from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values.own_members import with_options
from nas_theseus.values.registers import SIMILARITIES


class Similarity(Protocol):
    """Measures the similarity of a part's features and the guide's, with a loss for training.

    Options are the fields of a dataclass with these attributes and methods.

    Attributes:
        name: name in recipes, keys and messages.
        aligned_basis: whether a low loss implies the guide's basis, so that no stitch is needed.
        minimum_examples: smallest number of inputs in a batch.
    """

    @property
    def name(self) -> str: ...
    @property
    def aligned_basis(self) -> bool: ...
    @property
    def minimum_examples(self) -> int: ...

    def prepare(self, guide: Tensor, /) -> Any:
        """Compute once what `loss` needs from the guide's features of one fixed batch.

        Args:
            guide: shape (N, C, H, W), (N, T, D) or (N, D); has no gradient.

        Raises:
            ShapeError: there are too few examples.
        """

    def loss(self, features: Tensor, prepared: Any, /) -> Tensor:
        """One minus the similarity, a differentiable scalar; 0 is perfect.

        Args:
            features: the target part's features of the same N inputs; of the guide's width if
                `aligned_basis` is true, otherwise of any width.
            prepared: result of `prepare` for the guide's features of these inputs.

        Raises:
            ShapeError: the features do not fit the guide's.
        """


def similarity(given: str | Similarity, **options: Any) -> Similarity:
    """A similarity by name, or the given one, with options (fields of its dataclass).

    Raises:
        UnknownNameError: no similarity has this name.
        ConversionError: an option is unknown, or a value is out of range.
    """
    found: Similarity = with_options(SIMILARITIES, given, options)
    return found


def agreement(measure: Similarity, features: Tensor, guide: Tensor) -> Tensor:
    """The similarity of features to the guide's, without gradient; 1 is best."""
    with torch.no_grad():
        return 1 - measure.loss(features, measure.prepare(guide))


def check_features(x: Tensor, y: Tensor, *, part: str, minimum: int = 4) -> None:
    """Refuse features that no similarity can align; call it once, outside the training loop.

    Args:
        x: the target part's features, shape (N, ...).
        y: the guide's features of the same examples, shape (N, ...).
        part: name of the part, for the message.
        minimum: smallest number of examples.

    Raises:
        ShapeError: the numbers of examples differ.
        ConversionError: there are too few examples, or features are NaN, infinite or the same for
            every example.
    """
    if x.shape[:1] != y.shape[:1]:
        raise ShapeError(
            f"part {part!r}: target features {tuple(x.shape)} and guide features "
            f"{tuple(y.shape)} are not of the same examples"
        )
    if x.shape[0] < minimum:
        raise ConversionError(
            f"part {part!r}: {x.shape[0]} examples are too few to compare features, "
            f"{minimum} are needed: use a larger batch"
        )
    for owner, features in (("target", x.detach()), ("guide", y.detach())):
        bad = int((~torch.isfinite(features)).sum())
        if bad:
            raise ConversionError(
                f"part {part!r}: {bad} of {features.numel()} {owner} features are NaN or "
                "infinite: lower the learning rate, or check the guide's weights and data"
            )
        if float(centred(wide(features).flatten(1)).square().sum()) < 0.5:
            raise ConversionError(
                f"part {part!r}: the {owner} features are the same for all {x.shape[0]} examples, "
                "so there is nothing to align: look for dead units, or a part that ignores its "
                "input"
            )
