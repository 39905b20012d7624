"""What a network is trained for: data, loss and metric, ready made for images and text."""

from __future__ import annotations

from nas_theseus.tasks.images import (
    ImageTask,
    digits,
    fashion_mnist,
    from_datasets,
    image_folder,
)
from nas_theseus.tasks.task import SPLITS, Batch, Split, Task
from nas_theseus.tasks.text import TextTask, text_file

__all__ = [
    "SPLITS",
    "Batch",
    "ImageTask",
    "Split",
    "Task",
    "TextTask",
    "digits",
    "fashion_mnist",
    "from_datasets",
    "image_folder",
    "text_file",
]
