"""Make a search space from its sources, whose code is run."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError

from nas_theseus.errors import SpaceError, TheseusError
from nas_theseus.space.own_folder import private_import
from nas_theseus.space.own_modules import OwnPackage, own_package
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources, gather
from nas_theseus.values.registers import activate
from nas_theseus.values.validation import mistakes_of


def load_space(source: str | Path | Sources, *, portable: bool = False) -> SearchSpace:
    """Run a space file and call its ``space()``. The code is run: read it first.

    Modules beside the file come from the sources alone, and each space has its own of them: two
    spaces may have modules of the same name. The folder is not put on Python's module path. Costs,
    samplers and other members of registers that its code adds are known to this space only.

    Args:
        source: the file, which is then read with `gather`; or sources that were read before.
        portable: refuse modules that the code found where another machine would not, such as in a
            folder that it put on the module path itself. Always so for a file.

    Raises:
        SpaceError: no file, no ``space()``, an error in it, not a `SearchSpace`, or an import that
            cannot be saved with a found network.
    """
    sources = source if isinstance(source, Sources) else gather(source)
    shown = sources.path if isinstance(source, Sources) else str(source)
    package = own_package(sources)
    found = _run_for(package, sources, shown)
    if not isinstance(found, SearchSpace):
        raise SpaceError(shown, [f"space() must return a SearchSpace, not {type(found).__name__}"])
    if portable or not isinstance(source, Sources):
        _refuse_private(package, shown)
    return found


def _run_for(package: OwnPackage, sources: Sources, shown: str) -> object:
    """Run a space's code; its own members of registers are visible from now on.

    Raises:
        SpaceError: whatever the code raises; the space before is then active again.
    """
    before = activate(package.name)
    try:
        found = _run(package, shown)
        before = package.name
        return found
    except SpaceError as error:
        raise SpaceError(shown, error.mistakes) from error
    except TheseusError as error:
        raise SpaceError(shown, [str(error)]) from error
    except ValidationError as error:  # a Recipe with settings that cannot be
        where = _where(error, sources)
        raise SpaceError(shown, [f"{where}{said}" for said in mistakes_of(error)]) from error
    except Exception as error:  # whatever the user's code raises is reported as theirs
        known = _keywords(error, vars(sys.modules[package.name]))
        said = f"{type(error).__name__}: {error}{known}".replace(f"{package.name}.", "")
        raise SpaceError(shown, [_where(error, sources) + said]) from error
    finally:
        activate(before)


def _run(package: OwnPackage, shown: str) -> object:
    module = package.run_space_file()
    if not callable(getattr(module, "space", None)):
        raise SpaceError(shown, ["has no function space() that returns a SearchSpace"])
    with torch.random.fork_rng(devices=[]):
        # An untrained guide must have the same weights in every process.
        torch.manual_seed(0)
        return module.space()


def _refuse_private(package: OwnPackage, shown: str) -> None:
    """Refuse what the code imported that another machine would not find."""
    folder = package.sources.folder
    tops = {name.partition(".")[0]: file for name, file in reversed(package.met.items())}
    mistakes = [
        mistake
        for top, file in tops.items()
        if (mistake := private_import(top, Path(file).name, folder)) is not None
    ]
    if mistakes:
        raise SpaceError(shown, mistakes)


def _where(error: Exception, sources: Sources) -> str:
    """The last line of the space's own code that an error passed through."""
    files = {sources.path: ""}
    files |= {str(sources.folder / name): f"{name}, " for name, _ in sources.modules}
    where = ""
    if isinstance(error, SyntaxError):
        where = f"line {error.lineno}: "
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file in files:
            where = f"{files[file]}line {trace.tb_lineno}: "
        trace = trace.tb_next
    return where


def _keywords(error: Exception, names: Mapping[str, object]) -> str:
    """What a call takes that was given a keyword it does not know, when the file names it."""
    call = re.match(r"(\w+)(\.__init__)?\(\) got an unexpected keyword argument", str(error))
    called = names.get(call[1]) if call else None
    return f"; known: {', '.join(inspect.signature(called).parameters)}" if callable(called) else ""
