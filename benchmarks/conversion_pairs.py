"""The four pairs of guide and target on which conversion is measured."""

from __future__ import annotations

from dataclasses import dataclass

from nas_theseus.values.architecture import Architecture, BlockChoice, Hyperparameter, Span


@dataclass(frozen=True)
class Pair:
    """A guide (of a search space) and one target of that space.

    Attributes:
        space: file in search_spaces/.
        architecture: the target.
        epochs: the budget: what so many epochs of training the target from scratch cost.
        metric: what is measured, `accuracy` or `perplexity`.
    """

    space: str
    architecture: Architecture
    epochs: float
    metric: str = "accuracy"


def _block(
    start: int, stop: int, name: str, share: float = 1.0, **values: Hyperparameter
) -> BlockChoice:
    return BlockChoice(Span(start, stop), name, tuple(sorted(values.items())), share)


PAIRS = {
    # Every residual block replaced by a block of an MLP-Mixer; stem and head stay, as its
    # embedding and classifier.
    "resnet_to_mlp": Pair(
        "resnet_to_mlp.py",
        Architecture(
            (
                _block(0, 1, "keep"),
                *(_block(part, part + 1, "token_mlp", hidden=64) for part in range(1, 7)),
                _block(7, 8, "keep"),
            )
        ),
        epochs=6,
    ),
    # Nine bottleneck blocks to five basic ones of a quarter of their width, and a new head.
    "resnet_to_resnet": Pair(
        "resnet50_to_resnet18.py",
        Architecture(
            (
                _block(0, 1, "keep"),
                _block(1, 3, "basic", 0.25, width=1),
                _block(3, 4, "basic", 0.25, width=1),
                _block(4, 7, "basic", 0.25, width=1),
                _block(7, 8, "basic", 0.25, width=1),
                _block(8, 10, "basic", 0.25, width=1),
                _block(10, 11, "mlp", hidden=0),
            )
        ),
        epochs=3,
    ),
    # Every encoder layer replaced; embedding and head stay.
    "vit_to_mlp": Pair(
        "vit_to_mlp.py",
        Architecture(
            (
                _block(0, 1, "keep"),
                *(_block(part, part + 1, "token_mlp", hidden=64) for part in range(1, 5)),
                _block(5, 6, "keep"),
            )
        ),
        epochs=6,
    ),
    # Every transformer block replaced by a minimal RNN with an MLP; embedding and head stay.
    "gpt2_to_rnn": Pair(
        "gpt2_to_rnn.py",
        Architecture(
            (
                _block(0, 1, "keep"),
                *(
                    _block(part, part + 1, "minimal_rnn", hidden=1.0, kernel=4, mlp=2.0)
                    for part in range(1, 5)
                ),
                _block(5, 6, "keep"),
            )
        ),
        epochs=1,
        metric="perplexity",
    ),
}
