"""What tasks of pictures take over from a guide: its preprocessing, and what is learnt."""

from __future__ import annotations

from typing import Any

from nas_theseus.errors import DataError
from nas_theseus.tasks.preprocessing import Preprocessing, usual_preprocessing
from nas_theseus.tasks.task_options import ImageOptions

_USUAL_SIZE = 224


def preprocessing_for(
    function: str, guide: Any, given: Preprocessing | None, size: int | None
) -> Preprocessing:
    """How pictures become inputs: as given, or as the guide or ImageNet's networks expect."""
    own = getattr(guide, "preprocessing", None)
    if given is None and own is None and guide is not None:
        shape = guide.boundaries[0].shape
        if len(shape) != 3 or shape[1] != shape[2] or shape[0] != 3:
            raise DataError(
                f"{function}: the guide takes inputs {guide.boundaries[0]}, and nobody said what "
                "it expects of pictures; give preprocessing=Preprocessing(size, resize, mean, std)"
            )
        own = usual_preprocessing(shape[1])
    expected: Preprocessing = given or own or usual_preprocessing(size or _USUAL_SIZE)
    return expected if size in (None, expected.size) else expected.at_size(size)


def without_labels(function: str, guide: Any, chosen: ImageOptions) -> Any:
    """The guide whose outputs are learnt.

    Raises:
        DataError: there is none, or an option is about labels.
    """
    if guide is None:
        raise DataError(
            f"{function}: without labels, a guide's outputs are learnt; give guide=, such as "
            "vision_guide('torchvision:resnet50')"
        )
    if chosen["label_smoothing"]:
        raise DataError(f"{function}: label_smoothing is of labels; leave it out without labels")
    return guide
