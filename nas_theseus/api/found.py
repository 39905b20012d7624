"""Find a network, or an architecture that a search evaluated, by its name.

If several networks have the name, the error lists each of them with a unique one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from nas_theseus.errors import StorageError
from nas_theseus.export.member import (
    ARCHITECTURE_FILE,
    Member,
    read_architecture,
    read_evaluation,
    read_member,
)
from nas_theseus.searches.folder import SearchFolder, searches
from nas_theseus.services.mlflow import download_network
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.ids import SEARCH_NAME

_ID = re.compile("[0-9a-f]{4,12}")
_RUN_ID = re.compile("[0-9a-f]{32}")


def find_network(text: str, root: Path, *, trust_code: bool) -> Member:
    """Rebuild a network from its folder, by the id of its architecture, or from its MLflow run.

    Args:
        text: a folder as `read_member` takes it; ``ID`` or ``SEARCH/ID`` of a front member in a
            search of `root`, where at least four characters of the id are enough; or the run id
            of a front member at MLflow's current tracking URI.
        root: storage folder of searches.
        trust_code: consent to run the network's own code.

    Raises:
        StorageError: no network or several networks have this name; or no consent.
        ServiceError: the run cannot be downloaded from MLflow.
        GuideError: the weights are damaged or of another network.
        SpaceError: the space file cannot be run.
    """
    _refuse_no_name(text, "network")
    found = {name: folder for name, folder in _networks(text, root) if folder.is_dir()}
    if len(found) > 1:
        listed = "".join(f"\n  {name}{_quality(folder)}" for name, folder in found.items())
        raise StorageError(f"{len(found)} networks are called {text!r}; name one of them:{listed}")
    for folder in found.values():
        return read_member(folder, trust_code=trust_code)
    if not _RUN_ID.fullmatch(text):
        raise StorageError(
            f"no network {text!r}: give ID or SEARCH/ID of a front member in {root} ('nas-theseus "
            "front SEARCH' lists them), its MLflow run id, or the folder of a found network"
        )
    if not trust_code:
        raise StorageError(
            f"loading the network of run {text} runs the Python code in its artifacts "
            "network/space.py and network/sources; read it ('nas-theseus ui'), then add "
            "--trust-code"
        )
    with TemporaryDirectory(prefix="theseus-") as aside:
        return read_member(download_network(text, Path(aside)), trust_code=True)


def find_architecture(text: str, root: Path) -> Architecture:
    """An architecture by its id, or from a file.

    An id means the same architecture in every search.

    Args:
        text: ``ID`` or ``SEARCH/ID`` of one that a search of `root` evaluated, where at least four
            characters of the id are enough; a JSON file; or the folder of a found network.
        root: storage folder of searches.

    Raises:
        StorageError: no or several architectures have this name, or the file holds none.
    """
    _refuse_no_name(text, "architecture")
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        return read_architecture(path)
    found: dict[str, Architecture] = {}
    for search, identity in _in_searches(text, root):
        folder = SearchFolder(root, search)
        for file in sorted(folder.evaluations.glob(f"{identity}*-*.json")):
            if file.name.partition("-")[0] in found:
                continue
            outcome = folder.read_outcome(file.name.partition(".")[0])
            if outcome is not None:
                found[outcome.architecture.id] = outcome.architecture
    if len(found) > 1:
        raise StorageError(
            f"{len(found)} architectures begin with {text!r}: {', '.join(found)}; give more of one"
        )
    for architecture in found.values():
        return architecture
    if (path / ARCHITECTURE_FILE).is_file():
        return read_architecture(path / ARCHITECTURE_FILE)
    raise StorageError(
        f"no architecture {text!r} in {root}: give ID or SEARCH/ID of an evaluated one "
        "('nas-theseus front SEARCH' lists them), a JSON file, or the folder of a found network"
    )


def _refuse_no_name(text: str, what: str) -> None:
    """Refuse what the file system takes for no name at all, such as one that is too long."""
    try:
        Path(text).exists()
    except OSError as error:
        raise StorageError(
            f"no {what} {text[:80]!r}: {error.strerror or error}; give an id or a path"
        ) from error


def _networks(text: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Folders that may hold a network of this name, each with a unique name."""
    folders = [
        folder
        for name, beginning in _in_searches(text, root)
        for folder in sorted(SearchFolder(root, name).front.glob(f"{beginning}*"))
    ]
    own = Path(text)
    if own.resolve() not in [folder.resolve() for folder in folders]:
        yield (text if own.is_absolute() else f"./{text}"), own
    for folder in folders:
        yield f"{folder.parents[1].name}/{folder.name}", folder


def _in_searches(text: str, root: Path) -> Iterator[tuple[str, str]]:
    """Names of the searches to look in, each with the beginning of the id to look for."""
    search, _, identity = text.rpartition("/")
    if not _ID.fullmatch(identity):
        return
    if not search:
        for name in searches(root):
            yield name, identity
    elif SEARCH_NAME.fullmatch(search):
        yield search, identity


def _quality(folder: Path) -> str:
    """Metrics of a network, if its folder has them, as text."""
    try:
        metrics = read_evaluation(folder / ARCHITECTURE_FILE).metrics
    except StorageError:
        return ""
    return f"  ({', '.join(f'{name} {value:.4g}' for name, value in metrics.items())})"
