"""What a search keeps of its beginning, and the refusal to go on with something else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas_theseus.convert.guide_training import guide_key, load_prepared
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import SpaceError
from nas_theseus.search.folder import SearchFolder
from nas_theseus.search.front_files import read_beginning
from nas_theseus.space.consent import runnable
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources, difference, read_sources, write_sources
from nas_theseus.storage.whole_files import write_json
from nas_theseus.values.ids import short_hash
from nas_theseus.values.settings import SearchSettings


def refuse_mistakes(space: SearchSpace, space_file: Path) -> None:
    """Raise every mistake of a space together.

    Raises:
        SpaceError: there is at least one.
    """
    mistakes = mistakes_in(space)
    if not mistakes:
        table = CostTable(space)
        mistakes = table.uncountable() or [*table.unmeetable(), *table.without_logarithm()]
    if mistakes:
        raise SpaceError(str(space_file), mistakes)


def check_kept(storage: SearchFolder, settings: SearchSettings, sources: Sources) -> None:
    """Refuse to go on under an existing name with another space, seed or sampler.

    Raises:
        SpaceError: what changed, with the difference shown.
        StorageError: the saved sources are damaged.
    """
    if storage.space_file.exists():
        changed = difference(read_sources(storage.folder), sources)
        if changed is not None:
            raise SpaceError(
                f"search {settings.name!r}",
                [
                    "the space file, or a module that it imports from its folder, changed since "
                    f"this search began; use another --name, or restore the files from "
                    f"{storage.folder}: {changed}"
                ],
            )
    if storage.settings_file.exists():
        kept_settings = json.loads(storage.settings_file.read_text())
        mistakes = [
            f"it began with --{name} {begun}, not {getattr(settings, name)}; leave the option "
            "out, or take another --name"
            for name in ("seed", "sampler", "suggestions")
            # Searches that began before there were suggestions had none.
            if (begun := kept_settings.get(name, 0)) != getattr(settings, name)
        ]
        if mistakes:
            raise SpaceError(f"search {settings.name!r}", mistakes)


def keep_beginning(
    storage: SearchFolder, settings: SearchSettings, sources: Sources, space: SearchSpace
) -> str:
    """Keep what the search began with, or hold it to what it began with.

    Returns:
        The search's identity, which tells it apart from others of the same name.

    Raises:
        SpaceError: the guide's weights, the data, the study's storage or the recipe are others
            than before, or rungs are on where they were off.
    """
    now = {
        **_identity(space),
        "study": short_hash(settings.study_url),  # a hash, as the URL may hold a password
        "rungs": settings.rungs,
    }
    if not storage.settings_file.exists():
        write_sources(storage.folder, sources)
        begun = {
            "identity": uuid.uuid4().hex[:12],
            "seed": settings.seed,
            "sampler": settings.sampler,
            "suggestions": settings.suggestions,
            "library": space.recipe.library,
            "objectives": [asdict(goal) for goal in space.goals],
            "constraints": [asdict(limit) for limit in space.limits],
            **now,
        }
        write_json(storage.settings_file, begun)
        return str(begun["identity"])
    begun = json.loads(storage.settings_file.read_text())
    _hold(settings.name, begun, now)
    return str(begun["identity"])


def read_space(storage: SearchFolder, *, trust_code: bool) -> SearchSpace:
    """The space of a search as it began, its guide prepared; trains nothing.

    Args:
        trust_code: as `consent.runnable`.

    Raises:
        StorageError: no such search, or no consent to run its space file.
        SpaceError: the space file cannot be run, or data, guide or recipe are others than then.
        GuideError: the trained guide is gone or damaged.
    """
    begun = read_beginning(storage)
    kept = read_sources(storage.folder)
    space = load_space(runnable(kept, storage.folder, trust_code=trust_code))
    recipe = space.recipe.model_copy(update={"library": begun["library"]})
    space = replace(space, recipe=recipe)
    _hold(storage.name, begun, _identity(space))
    load_prepared(space.guide, space.learnt_from, space.guide_training, storage.guides)
    return space


def _identity(space: SearchSpace) -> dict[str, str]:
    """What must stay as it is in a search, of the space."""
    guide = guide_key(space.guide, space.learnt_from, space.guide_training)
    if space.guide_task is not None:
        guide = short_hash([guide, space.task.data_hash()], 16)
    return {"guide": guide, "recipe": space.recipe.id}


def _hold(name: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse what is not as it was.

    Raises:
        SpaceError: all that changed.
    """
    library = "with" if begun["library"] else "without"
    rungs = "with" if begun.get("rungs", False) else "without"
    said = {
        "guide": "the guide's first weights or the training data changed since this search began; "
        "restore them, or take another --name",
        "study": "it began with another --study; give that one, or take another --name",
        "recipe": f"it began {library} the library of converted blocks (--no-library), or with "
        "another version of nas-theseus; do as then, or take another --name",
        "rungs": f"it began {rungs} rungs (--no-rungs), so that some candidates were judged "
        "otherwise; do as then, or take another --name",
    }
    # Searches that began before there were rungs had none.
    mistakes = [said[key] for key, value in now.items() if begun.get(key, False) != value]
    if mistakes:
        raise SpaceError(f"search {name!r}", mistakes)
