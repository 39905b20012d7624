"""Options that the makers of tasks share, by keyword."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict, get_args

_Named: TypeAlias = Literal["flip-crop", "randaugment"]
Augment: TypeAlias = _Named | None
AUGMENTS: tuple[str, ...] = get_args(_Named)


class SourceOptions(TypedDict, total=False):
    """Of every task over data that a user names.

    Attributes:
        seed: fixes the order of the training split, and the validation split where it is drawn.
            Default: 0.
        name: what records call the task.
        metric: a name, or a metric of your own (`own_metric`).
    """

    seed: int
    name: str | None
    metric: Any


class SplitOptions(SourceOptions, total=False):
    """Of a task whose validation split is drawn from the training data.

    Attributes:
        validation_share: share of the training data that is used for validation. Default: 0.1.
    """

    validation_share: float


class ImageOptions(SplitOptions, total=False):
    """Of a task that tells classes of images.

    Attributes:
        label_smoothing, augment: see `ImageTask`.
    """

    label_smoothing: float
    augment: Augment
