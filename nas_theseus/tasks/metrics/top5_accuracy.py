"""Share of examples or tokens whose class is among the five with the greatest logits."""

from __future__ import annotations

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import Meter, NamedMetric, Prepared, Targets, per_token

K = 5


def make(targets: Targets) -> Meter:
    """The share of examples with a right answer among five.

    Raises:
        DataError: there are no more than five classes, so that every answer is right.
    """
    from torchmetrics.classification import MulticlassAccuracy

    if targets.count <= K:
        raise DataError(f"top5_accuracy: with {targets.count} classes it is always 1; use accuracy")
    right = MulticlassAccuracy(targets.count, top_k=K, average="micro", validate_args=False)
    return Prepared(right, per_token) if targets.kind == "tokens" else right


MEMBER = NamedMetric("maximize", ("classes", "tokens"), make)
