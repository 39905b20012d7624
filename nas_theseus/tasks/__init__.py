"""Tasks: data, loss, metric and distillation, with ready tasks for many kinds of data."""

from __future__ import annotations

from nas_theseus.tasks.image_folder import image_folder
from nas_theseus.tasks.images import ImageTask, digits, fashion_mnist, from_datasets
from nas_theseus.tasks.labels import LabelTask, multilabel
from nas_theseus.tasks.metric import Meter, OwnMetric, own_metric
from nas_theseus.tasks.multiple_choice import MultipleChoice, multiple_choice
from nas_theseus.tasks.picture_sets import saved_dataset, webdataset
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.tasks.regression import NumberTask, diabetes, regression
from nas_theseus.tasks.sample_pictures import sample_crops
from nas_theseus.tasks.segmentation import MaskTask, digit_masks, segmentation
from nas_theseus.tasks.task import SPLITS, Batch, Split, Task
from nas_theseus.tasks.text import TextTask, text_file
from nas_theseus.tasks.text_files import TextFilesTask, text_files
from nas_theseus.tasks.unlabelled import UnlabelledTask, unlabelled

__all__ = [
    "SPLITS",
    "Batch",
    "ImageTask",
    "LabelTask",
    "MaskTask",
    "Meter",
    "MultipleChoice",
    "NumberTask",
    "OwnMetric",
    "Preprocessing",
    "Split",
    "Task",
    "TextFilesTask",
    "TextTask",
    "UnlabelledTask",
    "diabetes",
    "digit_masks",
    "digits",
    "fashion_mnist",
    "from_datasets",
    "image_folder",
    "multilabel",
    "multiple_choice",
    "own_metric",
    "regression",
    "sample_crops",
    "saved_dataset",
    "segmentation",
    "text_file",
    "text_files",
    "unlabelled",
    "webdataset",
]
