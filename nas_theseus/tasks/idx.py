"""Read idx files, plain or gzipped: the format of MNIST and its relatives. Nothing is unpickled."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas_theseus.errors import DataError

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 2**31


def read_idx(path: Path) -> Tensor:
    """The bytes in an idx file as a tensor, dtype uint8, in the shape given by the header.

    Args:
        path: the file; gzipped when its name ends in ``.gz``.

    Raises:
        DataError: the file cannot be read, is truncated, is not an idx file of unsigned bytes,
            or is longer than its header says.

    Source: the format as described with MNIST (LeCun, Cortes, Burges): two zero bytes, a type,
    the number of dimensions, each dimension as a big-endian 32-bit integer, then the data.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE:
                raise DataError(
                    f"{path} is not an idx file of unsigned bytes: it begins with "
                    f"{magic.hex(' ') or 'nothing'}, expected 00 00 08"
                )
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise DataError(f"{path} ends inside its header; get the file again")
            shape = struct.unpack(f">{magic[3]}I", header)
            expected = math.prod(shape)
            if expected > _MOST_BYTES:
                raise DataError(
                    f"{path} claims shape {shape}, more than {_MOST_BYTES:,} bytes; "
                    "its header is damaged"
                )
            # One byte more than needed detects a file that is too long without unpacking all of it.
            data = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; get the file again") from error
    if len(data) != expected:
        found = "more" if len(data) > expected else f"{len(data):,}"
        raise DataError(
            f"{path} should hold {expected:,} bytes of data (shape {shape}), it holds {found}; "
            "get the file again"
        )
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(shape).copy())
