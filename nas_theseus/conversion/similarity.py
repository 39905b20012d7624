"""What alignment asks of a similarity, and how one is chosen by name.

The package's similarities are the files of `similarities/`. CKA and D-MNN ignore rotation and
scale, so a part aligned by them speaks a basis of its own and needs a stitch (`stitch_layer`) to be
read by the guide; regression and cosine align the basis too. A space file brings its own by
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
    """Measures how alike a part's features and the guide's are, and gives the loss to train on.

    Options are the fields of a dataclass that has these attributes and methods.

    Attributes:
        name: what recipes, keys and messages call it.
        aligned_basis: whether a low loss means the guide's own basis, so that no stitch is needed.
        minimum_examples: the fewest inputs of a batch that it can compare.
    """

    @property
    def name(self) -> str: ...
    @property
    def aligned_basis(self) -> bool: ...
    @property
    def minimum_examples(self) -> int: ...

    def prepare(self, guide: Tensor, /) -> Any:
        """What `loss` needs of the guide's features for one fixed batch, computed once.

        Args:
            guide: shape (N, C, H, W), (N, T, D) or (N, D); has no gradient.

        Raises:
            ShapeError: too few examples.
        """

    def loss(self, features: Tensor, prepared: Any, /) -> Tensor:
        """One minus the similarity, a differentiable scalar; 0 is perfect.

        Args:
            features: the target part's, of the same N inputs; of the guide's width where
                `aligned_basis` is true, of any width otherwise.
            prepared: what `prepare` returned for the guide's features of these inputs.

        Raises:
            ShapeError: the features do not fit the guide's.
        """


def similarity(given: str | Similarity, **options: Any) -> Similarity:
    """The similarity of this name, or the one given; options are the fields of its dataclass.

    Raises:
        UnknownNameError: no similarity has this name.
        ConversionError: an unknown option, or a value out of range.
    """
    found: Similarity = with_options(SIMILARITIES, given, options)
    return found


def agreement(measure: Similarity, features: Tensor, guide: Tensor) -> Tensor:
    """The similarity of features with the guide's, without gradient; 1 is best."""
    with torch.no_grad():
        return 1 - measure.loss(features, measure.prepare(guide))


def check_features(x: Tensor, y: Tensor, *, part: str, minimum: int = 4) -> None:
    """Refuse features that no similarity can align; call it once, outside the training loop.

    Args:
        x: the target part's features, shape (N, ...).
        y: the guide's features of the same examples, shape (N, ...).
        part: name of the part, for the message.
        minimum: fewest examples.

    Raises:
        ShapeError: the numbers of examples differ.
        ConversionError: too few examples; NaN or infinite values; features that are the same for
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
