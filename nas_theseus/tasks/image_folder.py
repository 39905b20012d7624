"""Classification of a folder of pictures, with labels or by a guide's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Unpack, overload

from nas_theseus.errors import DataError
from nas_theseus.tasks.images import ImageTask, image_defaults, image_task
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.tasks.taken_over import preprocessing_for, without_labels
from nas_theseus.tasks.task_options import ImageOptions
from nas_theseus.tasks.unlabelled import UnlabelledTask, unlabelled
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed


@overload
def image_folder(
    root: str | Path,
    size: int | None = None,
    workers: int = 4,
    *,
    labels: Literal[True] = True,
    guide: Any = None,
    preprocessing: Preprocessing | None = None,
    unreadable: float = 0.01,
    **options: Unpack[ImageOptions],
) -> ImageTask: ...


@overload
def image_folder(
    root: str | Path,
    size: int | None = None,
    workers: int = 4,
    *,
    labels: Literal[False],
    guide: Any = None,
    preprocessing: Preprocessing | None = None,
    unreadable: float = 0.01,
    **options: Unpack[ImageOptions],
) -> UnlabelledTask: ...


def image_folder(
    root: str | Path,
    size: int | None = None,
    workers: int = 4,
    *,
    labels: bool = True,
    guide: Any = None,
    preprocessing: Preprocessing | None = None,
    unreadable: float = 0.01,
    **options: Unpack[ImageOptions],
) -> ImageTask | UnlabelledTask:
    """A folder of pictures as people have them.

    Pictures are turned as their EXIF data say; grey, CMYK, palettes and 16 bits become RGB with 8
    bits, and transparent ones are put on white. Hidden files and folders without pictures are
    ignored. Pictures that take less than 512 MiB as inputs are read once and kept in memory, so
    that a guide's outputs for them can be kept too; others are read anew for every batch.

    Args:
        root: with labels, holds ``train/<class>/…`` and ``test/<class>/…`` (or ``val/<class>/…``,
            which is then the test split), and validation is taken from ``train``. Without labels,
            pictures at any depth; validation and test are taken from them, or as with labels if
            there are such folders.
        size: height and width of an input. Default: the guide's, or 224.
        workers: processes that read pictures; never more than there are cores.
        labels: False learns the guide's outputs instead of labels; see `unlabelled`. The metric is
            then ``agreement``, or ``divergence``.
        guide: gives preprocessing and, without labels, what is learnt.
        preprocessing: how pictures become inputs. Default: the guide's, or what is usual for
            ImageNet.
        unreadable: share of pictures that may be damaged or too large. They are reported and left
            out; more are refused.
        options: see `ImageOptions`; the name is the folder's by default.

    Raises:
        DataError: a share or size that cannot be, or there is no guide to learn from; on first use
            also when folders are missing, train and test have other classes, or too many pictures
            cannot be read.
    """
    metric = "accuracy" if labels else "agreement"
    chosen = completed("image_folder", options, image_defaults(None, metric))
    if not 0 < (share := chosen["validation_share"]) < 1:
        raise DataError(f"validation_share is between 0 and 1, not {share}")
    if size is not None and size < 1:
        raise DataError(f"image_folder: size must be above 0, not {size}")
    expected = preprocessing_for("image_folder", guide, preprocessing, size)
    path = Path(root).expanduser().absolute()
    name, inlet = chosen["name"] or path.name, Boundary(expected.shape)
    # torchvision is imported where pictures are read.
    from nas_theseus.tasks.folders import ImageFolders, PictureFolder
    from nas_theseus.tasks.picture_files import Reading

    outputs = 0 if guide is None else guide.boundaries[-1].shape[0]
    reading = Reading(expected, workers, unreadable, outputs)
    if labels:
        source = ImageFolders(path, reading, share, chosen["seed"])
        return image_task(name, inlet, source, chosen)
    learnt = without_labels("image_folder", guide, chosen)
    pictures = PictureFolder(path, outputs, reading, share, chosen["seed"])
    base = image_task(name, inlet, pictures, {**chosen, "metric": "accuracy"})
    return unlabelled(base, learnt, metric=chosen["metric"])
