"""A program of ``torch.export``, which ``torch.export.load`` reads without the space's code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nas_theseus.export.format import Format, Run, metadata
from nas_theseus.export.member import Member
from nas_theseus.export.traced import trace
from nas_theseus.values.ids import canonical_json

METADATA_FILE = "theseus.json"  # inside a .pt2


class TorchExport:
    """The traced network with a free batch size, and the metadata as an extra file."""

    suffix = ".pt2"
    needs: tuple[str, ...] = ()

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        """Trace and write the network."""
        extra = {METADATA_FILE: canonical_json(metadata(member))}
        with path.open("wb") as file:
            torch.export.save(trace(member, inputs, "torch-export"), file, extra_files=extra)

    def read(self, member: Member, path: Path) -> Run:
        """The program as a module."""
        with path.open("rb") as file:
            return torch.export.load(file).module()


MEMBER: Format = TorchExport()
