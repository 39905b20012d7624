"""Safetensors: the weights, with metadata from which the network is rebuilt."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from nas_theseus.conversion.target import assemble
from nas_theseus.export.format import Format, Run, metadata
from nas_theseus.export.member import Member
from nas_theseus.guide.weights import plain_state
from nas_theseus.values.architecture import Architecture


class Safetensors:
    """Weights and metadata; the space's code is needed to build the network again."""

    suffix = ".safetensors"
    needs: tuple[str, ...] = ()

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        """Write the state dict; nothing is traced."""
        said = {"format": "pt", **metadata(member)}
        path.write_bytes(safetensors.torch.save(plain_state(member.network), said))

    def read(self, member: Member, path: Path) -> Run:
        """Rebuild the network from the file's own metadata."""
        with safetensors.safe_open(path, "pt") as file:
            said = file.metadata()
        architecture = Architecture.from_json(json.loads(said["architecture"]))
        # With another seed than the member's, random state that the file lacks becomes visible.
        network = assemble(member.space, architecture, 1)
        network.load_state_dict(safetensors.torch.load_file(path))
        return network.eval()


MEMBER: Format = Safetensors()
