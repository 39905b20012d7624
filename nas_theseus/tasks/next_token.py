"""What tasks of next-token prediction share: shapes, loss, distillation and targets."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from torch.nn import functional

from nas_theseus.errors import ShapeError
from nas_theseus.tasks.distillation import of_classes
from nas_theseus.tasks.metric import Measured, Targets
from nas_theseus.tasks.task import SplitTask
from nas_theseus.values.architecture import Boundary


class NextTokenTask(Measured, SplitTask):
    """Predict each next token: cross-entropy is minimised.

    Attributes:
        name: what records call it.
        context: tokens a network sees at once.
    """

    name: str
    context: int

    @property
    @abstractmethod
    def outputs(self) -> Boundary:
        """Logits (context, vocabulary)."""

    @abstractmethod
    def token_bytes(self) -> Tensor:
        """Number of bytes of text that each token stands for, (vocabulary,), int64.

        Raises:
            DataError: the tokenizer does not say it.
        """

    @property
    def inlet(self) -> Boundary:
        """Token ids (context,)."""
        return Boundary((self.context,), integer=True)

    @property
    def targets(self) -> Targets:
        """Token ids."""
        return Targets("tokens", self.outputs.shape[1], token_bytes=self.token_bytes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy per token of logits (B, T, vocabulary) against ids (B, T).

        Raises:
            ShapeError: the outputs are not (B, T, vocabulary).
        """
        self._check(outputs, targets)
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence from the guide's distribution of each token; see `of_classes`."""
        return of_classes(outputs, teacher, temperature, dim=-1)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are.

        Raises:
            ShapeError: the outputs are not (B, T, vocabulary).
        """
        self._check(outputs, targets)
        return outputs, targets

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        expected = (*targets.shape, self.outputs.shape[1])
        if tuple(outputs.shape) != expected:
            raise ShapeError(
                f"task {self.name!r}: outputs have shape {tuple(outputs.shape)}, expected "
                f"{expected} (batch, tokens, vocabulary)"
            )
