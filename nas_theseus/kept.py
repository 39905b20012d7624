"""What a search keeps of its beginning, and the refusal to go on with something else."""

from __future__ import annotations

import difflib
import json
import uuid
from dataclasses import asdict
from pathlib import Path

from nas_theseus.convert.guide_training import guide_key
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import SpaceError
from nas_theseus.mistakes import mistakes_in
from nas_theseus.settings import SearchSettings
from nas_theseus.space import SearchSpace
from nas_theseus.storage import Storage, write_bytes, write_json
from nas_theseus.values import short_hash


def read_space_text(space_file: Path) -> str:
    """The space file's text.

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


def check_kept(storage: Storage, settings: SearchSettings, text: str) -> None:
    """Refuse to go on under an existing name with another space, seed or sampler.

    Raises:
        SpaceError: what changed, with the difference shown.
    """
    if storage.space_file.exists():
        kept = storage.space_file.read_text(encoding="utf-8")
        if kept != text:
            lines = difflib.unified_diff(
                kept.splitlines(), text.splitlines(), "kept space.py", "given", lineterm="", n=1
            )
            raise SpaceError(
                f"search {settings.name!r}",
                [
                    "the space file changed since this search began; take another --name, or "
                    f"restore it from {storage.space_file}:\n" + "\n".join(list(lines)[:40])
                ],
            )
    if storage.settings_file.exists():
        kept_settings = json.loads(storage.settings_file.read_text())
        mistakes = [
            f"it began with --{name} {kept_settings[name]}, not {getattr(settings, name)}; leave "
            "the option out, or take another --name"
            for name in ("seed", "sampler")
            if kept_settings[name] != getattr(settings, name)
        ]
        if mistakes:
            raise SpaceError(f"search {settings.name!r}", mistakes)


def keep_beginning(
    storage: Storage, settings: SearchSettings, text: str, space: SearchSpace
) -> str:
    """Keep what the search began with, or hold it to what it began with.

    Returns:
        The search's identity, which tells it apart from others of the same name.

    Raises:
        SpaceError: the guide's weights, the data, the study's storage or the recipe are others
            than before, or rungs are on where they were off.
    """
    guide = guide_key(space.guide, space.learnt_from, space.guide_training)
    if space.guide_task is not None:
        guide = short_hash([guide, space.task.data_hash()], 16)
    now = {
        "guide": guide,
        "study": short_hash(settings.study_url),  # a hash, as the URL may hold a password
        "recipe": space.recipe.id,
        "rungs": settings.rungs,
    }
    if not storage.settings_file.exists():
        write_bytes(storage.space_file, text.encode())
        begun = {
            "identity": uuid.uuid4().hex[:12],
            "seed": settings.seed,
            "sampler": settings.sampler,
            "library": space.recipe.library,
            "objectives": [asdict(goal) for goal in space.goals],
            "constraints": [asdict(limit) for limit in space.limits],
            **now,
        }
        write_json(storage.settings_file, begun)
        return str(begun["identity"])
    begun = json.loads(storage.settings_file.read_text())
    said = {
        "guide": "the guide's first weights or the training data changed since this search began; "
        "restore them, or take another --name",
        "study": "it began with another --study; give that one, or take another --name",
        "recipe": f"it began {'without' if space.recipe.library else 'with'} the library of "
        "converted blocks (--no-library), or with another version of nas-theseus; do as then, or "
        "take another --name",
        "rungs": f"it began {'without' if settings.rungs else 'with'} rungs (--no-rungs), so that "
        "some candidates were judged otherwise; do as then, or take another --name",
    }
    # Searches that began before there were rungs had none.
    mistakes = [said[name] for name, value in now.items() if begun.get(name, False) != value]
    if mistakes:
        raise SpaceError(f"search {settings.name!r}", mistakes)
    return str(begun["identity"])
