"""What a search began with: saved once, then inherited and checked by every later launch."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from nas_theseus.conversion.guide_training import guide_key, load_prepared
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import unmeasurable
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.consent import runnable
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources, difference, read_sources, write_sources
from nas_theseus.storage.checked_json import read_checked, write_checked
from nas_theseus.storage.json_files import MALFORMED, number, text, whole
from nas_theseus.tasks.floor import chance_of
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.ids import short_hash
from nas_theseus.values.settings import SearchSettings

# Settings that a resumed search inherits if they are not given, and refuses to change if they are.
INHERITED = ("sampler", "seed", "suggestions", "library", "rungs")


@dataclass(frozen=True)
class Beginning:
    """What a search began with.

    Attributes:
        identity: tells this search apart from others of the same name.
        library: whether candidates take blocks from a library; its location may change.
        guide: hash of the guide's initial weights, its training and the data.
        recipe: id of the candidates' recipe.
        study: hash of the study's storage URL, which may hold a password.
    """

    identity: str
    sampler: str
    seed: int
    suggestions: int
    library: bool
    rungs: bool
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    guide: str
    recipe: str
    study: str

    @classmethod
    def of(cls, space: SearchSpace, settings: SearchSettings) -> Beginning:
        """The beginning of a search that starts now."""
        return cls(
            identity=uuid.uuid4().hex[:12],
            sampler=settings.sampler,
            seed=settings.seed,
            suggestions=settings.suggestions,
            library=space.recipe.library,
            rungs=settings.rungs,
            objectives=space.goals,
            constraints=space.limits,
            guide=_guide_of(space),
            recipe=space.recipe.id,
            study=short_hash(settings.study_url),
        )

    def write(self, folder: SearchFolder) -> None:
        """Save it in the search's folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_checked(folder.settings_file, asdict(self))

    @classmethod
    def read(cls, folder: SearchFolder) -> Beginning:
        """The beginning of a search, as it was saved.

        Raises:
            StorageError: no such search, or its settings are damaged.
        """
        try:
            data = read_checked(folder.settings_file)
            goals = tuple(_goal(**goal) for goal in data["objectives"])
            limits = tuple(_limit(**limit) for limit in data["constraints"])
            # Searches of older versions had neither suggestions nor rungs.
            known = {"suggestions": 0, "rungs": False, **data}
            names = {field.name for field in fields(cls)}
            chosen = {name: known[name] for name in names}
            return _checked(cls(**{**chosen, "objectives": goals, "constraints": limits}))
        except FileNotFoundError as error:
            raise StorageError(
                f"no search {folder.name!r} in {folder.root}; give its --storage, or start it "
                "with 'nas-theseus search'"
            ) from error
        except (OSError, *MALFORMED) as error:
            raise StorageError(
                f"{folder.settings_file} is damaged ({error!r}); restore it from a backup, or "
                "start a new search under another --name"
            ) from error

    @property
    def floor(self) -> Constraint | None:
        """The limit of chance; None for a search that began without one."""
        return next((limit for limit in self.constraints if limit.chance), None)

    @property
    def inherited(self) -> dict[str, Any]:
        """Settings that a later launch inherits."""
        return {name: getattr(self, name) for name in INHERITED}

    def differences(self, settings: SearchSettings) -> list[str]:
        """Messages about settings of a later launch that differ from the beginning."""
        given = {name: getattr(settings, name) for name in INHERITED}
        given["library"] = settings.library is not False
        return [
            f"it began {_as_written(name, begun)}, not {_as_written(name, given[name])}; leave the "
            "option out, or choose another --name"
            for name, begun in self.inherited.items()
            if begun != given[name]
        ]

    def hold(self, name: str, now: Mapping[str, str]) -> None:
        """Refuse to continue with another guide, recipe or study.

        Args:
            now: values of this launch by attribute.

        Raises:
            SpaceError: lists all that differ.
        """
        messages = {
            "guide": "the guide's initial weights or the training data changed since this search "
            "began; restore them, or choose another --name",
            "recipe": "it began with another recipe, or with another version of nas-theseus; "
            "choose another --name",
            "study": "it began with another --study; give that one, or choose another --name",
        }
        mistakes = [messages[key] for key, value in now.items() if getattr(self, key) != value]
        if mistakes:
            raise SpaceError(f"search {name!r}", mistakes)


def _goal(**data: Any) -> Objective:
    """An objective as it was saved; an error says that the data are not one (`MALFORMED`)."""
    found = Objective(**data)
    text(found.name)
    if found.reference is not None:
        number(found.reference)
    if found.direction not in ("maximize", "minimize") or not isinstance(found.log, bool):
        raise ValueError(f"{data} is no objective")
    return found


def _limit(**data: Any) -> Constraint:
    """A limit as it was saved; likewise."""
    found = Constraint(**data)
    text(found.name), number(found.limit)
    if found.operator not in ("<=", ">=") or not isinstance(found.chance, bool):
        raise ValueError(f"{data} is no limit")
    return found


def _checked(found: Beginning) -> Beginning:
    """The same, if all its values are of their types; otherwise a ValueError."""
    for said in (found.identity, found.sampler, found.guide, found.recipe, found.study):
        text(said)
    whole(found.seed), whole(found.suggestions)
    if not (isinstance(found.library, bool) and isinstance(found.rungs, bool)):
        raise ValueError("library and rungs are true or false")
    if not found.objectives:
        raise ValueError("it has no objectives")
    return found


def _as_written(name: str, value: object) -> str:
    """A setting in the form in which a user writes it."""
    if isinstance(value, bool):
        return f"{'with' if value else 'without'} {name} (--no-{name})"
    return f"with --{name} {value}"


def inherit(folder: SearchFolder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the settings of a launch from the beginning of its search, if there is one.

    Args:
        given: settings of this launch; None if not given.
    """
    own = {name: value for name, value in given.items() if value is not None}
    if not folder.settings_file.exists():
        return own
    return {**Beginning.read(folder).inherited, **own}


def begin(
    folder: SearchFolder, settings: SearchSettings, space: SearchSpace, sources: Sources
) -> Beginning:
    """Save what a new search begins with, or check that this launch has not changed it.

    Raises:
        SpaceError: the guide, the data, the recipe or the study differ from the beginning.
        StorageError: the folder cannot be written, or its settings are damaged.
    """
    now = Beginning.of(space, settings)
    if not folder.settings_file.exists():
        if (floor := floor_of(space)) is not None:
            now = replace(now, constraints=(*now.constraints, floor))
        write_sources(folder.folder, sources)
        now.write(folder)
        return now
    begun = Beginning.read(folder)
    begun.hold(folder.name, {key: getattr(now, key) for key in ("guide", "recipe", "study")})
    return begun


def floor_of(space: SearchSpace) -> Constraint | None:
    """The limit of chance for a new search of a space.

    None if the space wants none, has a constraint on its metric, or its task knows no chance.

    Raises:
        DataError: the task's own chance is not a number.
    """
    if not space.beat_chance or any(limit.name == space.metric for limit in space.limits):
        return None
    value = chance_of(space.task)
    if value is None:
        return None
    operator: Literal["<=", ">="] = ">=" if space.task.direction == "maximize" else "<="
    return Constraint(space.metric, operator, value, chance=True)


def refuse_changes(folder: SearchFolder, settings: SearchSettings, sources: Sources) -> None:
    """Refuse to resume a search with other sources or other settings; reads no data.

    Raises:
        SpaceError: lists what changed, with the differences.
        StorageError: the saved sources or settings are damaged.
    """
    mistakes = []
    if folder.space_file.exists():
        changed = difference(read_sources(folder.folder), sources)
        if changed is not None:
            # Whoever changes a file after a first launch has nothing to lose.
            empty = next(iter(folder.outcomes()), None) is None
            anew = f" (it has no result yet: delete {folder.folder} to begin anew)" if empty else ""
            mistakes.append(
                "the space file, or a module that it imports from its folder, changed since this "
                f"search began; choose another --name, or restore from {folder.folder}{anew}: "
                f"{changed}"
            )
    if folder.settings_file.exists():
        mistakes += Beginning.read(folder).differences(settings)
    if mistakes:
        raise SpaceError(f"search {folder.name!r}", mistakes)


def refuse_mistakes(space: SearchSpace, where: str) -> None:
    """Raise every mistake of a space together.

    Raises:
        SpaceError: there is at least one mistake.
    """
    mistakes = mistakes_in(space)
    if not mistakes:
        table = CostTable(space)
        mistakes = [*table.uncountable(), *unmeasurable(space)]
        mistakes = mistakes or [*table.unmeetable(), *table.without_logarithm()]
    if mistakes:
        raise SpaceError(where, mistakes)


def read_space(folder: SearchFolder, *, trust_code: bool) -> SearchSpace:
    """The space that a search began with, its guide prepared; trains nothing.

    Args:
        trust_code: as `space.consent.runnable`.

    Raises:
        StorageError: no such search, or no consent to run its space file.
        SpaceError: the space file cannot be run, or data, guide or recipe have changed.
        GuideError: the trained guide is missing or damaged.
    """
    begun = Beginning.read(folder)
    saved = read_sources(folder.folder)
    space = load_space(runnable(saved, folder.folder, trust_code=trust_code))
    recipe = space.recipe.model_copy(update={"library": begun.library})
    space = replace(space, recipe=recipe, floor=begun.floor)
    begun.hold(folder.name, {"guide": _guide_of(space), "recipe": space.recipe.id})
    load_prepared(space.guide, space.learnt_from, space.guide_training, folder.guides)
    return space


def _guide_of(space: SearchSpace) -> str:
    """Hash of the guide and the data, which must not change."""
    guide = guide_key(space.guide, space.learnt_from, space.guide_training)
    if space.guide_task is not None:
        guide = short_hash([guide, space.task.data_hash()], 16)
    return guide
