"""Errors a user can meet: each names the thing, what was possible and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class TheseusError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits with 2."""


class ShapeError(TheseusError, ValueError):
    """Tensors or boundaries whose shapes do not fit what was asked."""


class CutError(TheseusError, ValueError):
    """A network that cannot be cut where it was asked to be."""


class GuideError(TheseusError, ValueError):
    """A guide whose weights are missing, damaged or of another network."""


class PairingError(TheseusError, ValueError):
    """A block that cannot stand for a span of the guide."""


class LimitError(TheseusError, ValueError):
    """Limits that no architecture keeps, or that are on no known cost.

    Attributes:
        limit: the limit that binds, if one does.
        closest: what the architecture that comes nearest has there.
    """

    def __init__(
        self, message: str, limit: str | None = None, closest: float | None = None
    ) -> None:
        super().__init__(message)
        self.limit, self.closest = limit, closest


class EstimateError(TheseusError, ValueError):
    """An observation that an estimate cannot learn from."""


class DataError(TheseusError, ValueError):
    """A data set that cannot be had or is not what the task needs."""


class CostError(TheseusError, RuntimeError):
    """A cost that cannot be counted truthfully."""


class ConversionError(TheseusError, RuntimeError):
    """A conversion that cannot start or that diverged."""


class TransformError(TheseusError, ValueError):
    """A function-preserving transform that a network or a method does not allow."""


class ExportError(TheseusError, RuntimeError):
    """A found network that a file format cannot hold, or that a written file does not repeat."""


class ServiceError(TheseusError, RuntimeError):
    """Ray, Optuna or MLflow cannot be reached or refuses."""


class StorageError(TheseusError, OSError):
    """A storage folder or file that cannot be read, written or trusted."""


class LibraryError(StorageError):
    """A store of converted blocks that cannot be read or written."""


class UnknownNameError(TheseusError, LookupError):
    """A name that no member of a register has, or that a new member may not take."""


class SpaceError(TheseusError, ValueError):
    """Mistakes in a search space or in settings, all of them together."""

    def __init__(self, where: str, mistakes: Iterable[str]) -> None:
        self.where = where
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        head = f"{where}: {count} mistake{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {mistake}" for mistake in self.mistakes)]))
