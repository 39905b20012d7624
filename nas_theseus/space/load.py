"""Read a search space from one Python file, whose code is run."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError

from nas_theseus.errors import SpaceError, TheseusError
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.validation import mistakes_of


def read_space_text(space_file: Path) -> str:
    """The text of a space file.

    Raises:
        SpaceError: it cannot be read.
    """
    try:
        return space_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpaceError(
            str(space_file), [f"{reason}; give a Python file with a function space()"]
        ) from error


def load_space(source: str | Path, text: str | None = None) -> SearchSpace:
    """Run a search-space file and call its ``space()``. The file's code is run: read it first.

    Args:
        source: path of the file; its folder is importable while it runs.
        text: its content, when it was read before (a kept copy); otherwise the file is read.

    Raises:
        SpaceError: no file, no ``space()``, an error in it, or not a `SearchSpace`.
    """
    path = Path(source)
    if text is None:
        if not path.is_file():
            raise SpaceError(
                str(path), ["no such file; give a Python file with a function space()"]
            )
        text = path.read_text(encoding="utf-8")
    # Named by content, so that classes of two versions of a file never mix in one process.
    name = f"theseus_space_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    # What runs; the file itself may be changed, or be on another machine, when it is asked for.
    module.__dict__["__source__"] = text
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # the user's file, run knowingly
        if not callable(getattr(module, "space", None)):
            raise SpaceError(str(path), ["has no function space() that returns a SearchSpace"])
        with torch.random.fork_rng(devices=[]):
            # An untrained guide must have the same weights in every process.
            torch.manual_seed(0)
            found = module.space()
    except SpaceError as error:
        raise SpaceError(str(path), error.mistakes) from error
    except TheseusError as error:
        raise SpaceError(str(path), [str(error)]) from error
    except ValidationError as error:  # a Recipe with settings that cannot be
        where = _where(error, str(path))
        raise SpaceError(str(path), [f"{where}{said}" for said in mistakes_of(error)]) from error
    except Exception as error:  # whatever the user's code raises is told as theirs, with the line
        said = f"{type(error).__name__}: {error}{_keywords(error, vars(module))}"
        raise SpaceError(str(path), [_where(error, str(path)) + said]) from error
    finally:
        sys.path.remove(folder)
    if not isinstance(found, SearchSpace):
        raise SpaceError(
            str(path), [f"space() must return a SearchSpace, not {type(found).__name__}"]
        )
    return found


def _where(error: Exception, path: str) -> str:
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f"line {line}: "


def _keywords(error: Exception, names: Mapping[str, object]) -> str:
    """What a call takes that was given a keyword it does not know, when the file names it."""
    call = re.match(r"(\w+)(\.__init__)?\(\) got an unexpected keyword argument", str(error))
    called = names.get(call[1]) if call else None
    return f"; known: {', '.join(inspect.signature(called).parameters)}" if callable(called) else ""
