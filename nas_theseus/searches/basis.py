"""What the results of a search are compared with: the guide, a reference, and the rungs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import Measured
from nas_theseus.storage.checked_json import read_checked, write_checked
from nas_theseus.storage.json_files import MALFORMED, numbers, text, whole
from nas_theseus.values.rung import Rung, rungs_of


@dataclass(frozen=True)
class Basis:
    """What the results of a search are compared with; saved, so that reports run no code of it.

    Attributes:
        guide: quality and costs of the guide.
        reference: the worst values that count in the hypervolume, by goal.
        rungs: where candidates are compared.
        examples: number of validation examples.
    """

    guide: Mapping[str, float]
    reference: Mapping[str, float]
    rungs: tuple[Rung, ...]
    examples: int

    @classmethod
    def of(cls, measured: Measured) -> Basis:
        """The basis of a search whose guide is measured."""
        space = measured.space
        return cls(
            {n: v for n, v in measured.guide_values.items() if math.isfinite(v)},
            measured.reference,
            rungs_of(space.recipe, space.metric),
            space.task.size("validation"),
        )

    def write(self, folder: SearchFolder) -> None:
        """Save it in the search's folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_checked(folder.basis_file, asdict(self))

    @classmethod
    def read(cls, folder: SearchFolder) -> Basis | None:
        """The basis of a search; None before its guide is measured, or if the file is damaged."""
        try:
            data = read_checked(folder.basis_file)
            rungs = tuple(
                Rung(text(rung["name"]), text(rung["metric"]), whole(rung["epoch"]))
                for rung in data["rungs"]
            )
            guide, reference = numbers(data["guide"]), numbers(data["reference"])
            return cls(guide, reference, rungs, whole(data["examples"]))
        except (OSError, *MALFORMED):
            return None
