"""F1 score, the harmonic mean of precision and recall, averaged over classes or labels."""

from __future__ import annotations

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets


def make(targets: Targets) -> Meter:
    """The unweighted mean over classes; one that is neither present nor predicted is left out."""
    from torchmetrics.classification import MulticlassF1Score, MultilabelF1Score

    if targets.kind == "labels":
        return MultilabelF1Score(targets.count, average="macro", validate_args=False)
    return MulticlassF1Score(
        targets.count, average="macro", ignore_index=targets.ignored, validate_args=False
    )


MEMBER = NamedMetric("maximize", ("classes", "maps", "labels"), make)
