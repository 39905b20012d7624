"""Mean over classes of intersection over union of pixels, counted over the whole split."""

from __future__ import annotations

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets


def make(targets: Targets) -> Meter:
    """Jaccard index of each class from one confusion matrix, as segmentation benchmarks report.

    A class that is neither present nor predicted is left out.
    """
    from torchmetrics.classification import MulticlassJaccardIndex

    return MulticlassJaccardIndex(
        targets.count, average="macro", ignore_index=targets.ignored, validate_args=False
    )


MEMBER = NamedMetric("maximize", ("maps",), make)
