"""A found network as a folder to rebuild it from: architecture, weights and the space's code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from nas_theseus.conversion.target import Target, assemble
from nas_theseus.errors import StorageError
from nas_theseus.guide.weights import load_weights, read_safetensors, rebuilding
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import (
    SPACE_FILE,
    Sources,
    read_sources,
    source_files,
    write_sources,
)
from nas_theseus.storage.json_files import MALFORMED, read_json
from nas_theseus.storage.whole_files import write_bytes, write_json
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation

ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "weights.safetensors"


def write_member(folder: Path, evaluation: Evaluation, weights: Path, sources: Sources) -> None:
    """Write all that `load` needs to one folder: weights, architecture and the space's sources.

    Raises:
        StorageError: the weights are gone or damaged, or the folder cannot be written.
    """
    try:
        read_safetensors(weights)
    except (OSError, ValueError, SafetensorError) as error:
        gone = "damaged" if weights.is_file() else "gone"
        raise StorageError(
            f"weights of architecture {evaluation.architecture.id} are {gone}: {weights}; restore "
            f"the file from a backup, or delete evaluations/{evaluation.name}.json and continue "
            "the search to make them again"
        ) from error
    write_bytes(folder / WEIGHTS_FILE, weights.read_bytes())
    write_sources(folder, sources)
    write_json(folder / ARCHITECTURE_FILE, evaluation.to_json())


def member_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that `write_member` wrote, relative to the folder.

    Raises:
        StorageError: the list of its sources is damaged.
    """
    return (ARCHITECTURE_FILE, WEIGHTS_FILE, *source_files(folder))


def read_architecture(path: Path) -> Architecture:
    """An architecture from a JSON file (a list of choices, or an object that holds one).

    Raises:
        StorageError: no such file, or not an architecture.
    """
    try:
        data = read_json(path)
        return Architecture.from_json(data["architecture"] if isinstance(data, dict) else data)
    except (OSError, *MALFORMED) as error:
        raise StorageError(
            f"{path} holds no architecture: {error}; give the architecture.json of a found network"
        ) from error


def read_evaluation(path: Path) -> Evaluation:
    """An evaluation from its JSON file.

    Raises:
        StorageError: no such file, or not an evaluation.
    """
    try:
        return Evaluation.from_json(read_json(path))
    except (OSError, *MALFORMED) as error:
        raise StorageError(f"{path} holds no evaluation: {error!r}") from error


@dataclass(frozen=True, eq=False)
class Member:
    """A found network, rebuilt, with its search space and its evaluation."""

    network: Target
    space: SearchSpace
    evaluation: Evaluation


def load(path: str | Path, *, trust_code: bool = False) -> Target:
    """Rebuild a found network from its folder, in eval mode on the CPU; see `read_member`."""
    return read_member(path, trust_code=trust_code).network


def read_member(path: str | Path, *, trust_code: bool = False) -> Member:
    """Rebuild a found network from its folder, in eval mode on the CPU.

    Args:
        path: folder with ``architecture.json``, ``weights.safetensors``, ``space.py`` and the
            modules in ``sources/``, such as ``theseus/searches/NAME/front/ARCHITECTURE`` or the
            artifacts of its MLflow run.
        trust_code: consent to run the Python code of that folder, which makes the blocks (custom
            ones included). Read the files first when others sent them.

    Raises:
        StorageError: no consent, or a file is missing or damaged.
        GuideError: the weights are damaged or of another network.
        SpaceError: the space file cannot be run.
    """
    folder = Path(path)
    needed = (ARCHITECTURE_FILE, WEIGHTS_FILE, SPACE_FILE)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise StorageError(
            f"{folder} holds no found network: {', '.join(missing)} missing; give the folder of a "
            "front member"
        )
    if not trust_code:
        modules = " and in its sources/" if len(source_files(folder)) > 2 else ""
        raise StorageError(
            f"loading {folder} runs the Python code in {folder / SPACE_FILE}{modules}; read it, "
            "then pass trust_code=True (on the command line --trust-code)"
        )
    evaluation = read_evaluation(folder / ARCHITECTURE_FILE)
    with rebuilding():
        space = load_space(read_sources(folder))
    network = assemble(space, evaluation.architecture, 0)
    load_weights(network, folder / WEIGHTS_FILE)
    return Member(network.eval(), space, evaluation)
