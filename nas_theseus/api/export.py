"""A found network as a file or folder of another tool's format."""

from __future__ import annotations

from pathlib import Path

from nas_theseus.api.found import find_network
from nas_theseus.export.format import (
    Checked,
    find_format,
    refuse_full_folder,
    with_options,
    write_format,
)
from nas_theseus.values.registers import FORMATS


def export(
    network: str,
    to: str,
    *,
    out: Path | None = None,
    storage: Path = Path("theseus"),
    trust_code: bool = False,
    **options: object,
) -> Checked:
    """Write a found network as one file or folder; kept only if it gives the network's outputs.

    Args:
        network: as `find_network` takes it.
        to: one of `FORMATS`, or a format that the network's space file adds.
        out: the file or folder. Default: the architecture's id in the working directory.
        storage: storage folder of searches.
        trust_code: consent to run the network's own code.
        options: of the format, such as ``dtype`` and ``tokenizer`` of huggingface.

    Raises:
        UnknownNameError, ExportError: as `write_format`.
        StorageError, ServiceError, GuideError, SpaceError: as `find_network`.
    """
    if to in FORMATS:
        with_options(to, options)  # a missing package is reported before minutes of download
    if out is not None:
        refuse_full_folder(out)
    # Its space file may add the format, so the name is looked up only afterwards.
    member = find_network(network, storage, trust_code=trust_code)
    suffix = find_format(to).suffix
    path = out or Path(f"{member.evaluation.architecture.id}{suffix}")
    return write_format(member, to, path, options=options)
