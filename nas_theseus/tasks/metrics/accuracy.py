"""Share of right answers: of examples, tokens or pixels, or of labels (averaged over labels)."""

from __future__ import annotations

from nas_theseus.tasks.metric import Meter, NamedMetric, Prepared, Targets, per_token


def make(targets: Targets) -> Meter:
    """The share of examples whose greatest logit is at their class."""
    from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy

    if targets.kind == "labels":
        return MultilabelAccuracy(targets.count, validate_args=False)
    right = MulticlassAccuracy(
        targets.count, average="micro", ignore_index=targets.ignored, validate_args=False
    )
    return Prepared(right, per_token) if targets.kind == "tokens" else right


MEMBER = NamedMetric("maximize", ("classes", "tokens", "maps", "labels"), make)
