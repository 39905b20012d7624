"""Where a study is stored: a journal file or a database. Failures are reported with their cause."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from nas_theseus.errors import TheseusError
from nas_theseus.services.optuna.causes import unusable
from nas_theseus.services.optuna.journal import Journal, open_journal
from nas_theseus.services.sqlite_tables import make_tables
from nas_theseus.values.goals import Objective


def reach(address: str) -> None:
    """Open a database before anything is trained, making its tables where there are none.

    Raises:
        ServiceError: it does not answer, refuses the password, or is of another kind.
    """
    open_storage(address)


def open_storage(storage: Path | str) -> BaseStorage:
    """The storage at a journal's path or a database's address.

    Raises:
        ServiceError: it cannot be used; the message has the cause and its remedy.
    """
    try:
        if isinstance(storage, Path):
            return open_journal(storage)
        make_tables(storage, _first_use)
        # Each connection is tested before use, since a database may be restarted.
        return RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})
    except TheseusError:
        raise
    except Exception as error:  # database drivers raise their own kinds
        raise unusable(storage, error) from None


def _first_use(url: str) -> None:
    RDBStorage(url).engine.dispose()


@dataclass(frozen=True)
class StoredStudy:
    """An Optuna study and its storage.

    Attributes:
        study: the study.
        storage: the storage that holds it.
        study_id: its id there.
        address: the journal's path, or the database's address.
    """

    study: optuna.Study
    storage: BaseStorage
    study_id: int
    address: Path | str

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything written inside is one write to a journal; a database is written at once.

        Raises:
            ServiceError: the storage cannot be used.
        """
        journal = self.storage if isinstance(self.storage, Journal) else None
        try:
            with nullcontext() if journal is None else journal.together():
                yield
        except TheseusError:  # for example a full disk under the search's folder
            raise
        except (StorageInternalError, SQLAlchemyError, OSError) as error:
            raise unusable(self.address, error) from None

    def genes(self, number: int) -> dict[str, Any]:
        """Values of a trial's parameters, which `optuna.Trial.params` copies one by one."""
        return dict(self.storage.get_trial(self._trial_id(number)).params)

    def mark(self, number: int, key: str, value: object) -> None:
        """Set a user attribute of a trial."""
        self.storage.set_trial_user_attr(self._trial_id(number), key, value)

    def constrain(self, number: int, violations: Mapping[str, float]) -> None:
        """Save by how much a trial breaks constraints; those saved before are not changed."""
        trial_id = self._trial_id(number)
        saved = self.storage.get_trial(trial_id).constraints
        for name, violation in violations.items():
            if name not in saved:
                optuna.Trial(self.study, trial_id).set_constraint(name, violation)

    def _trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)


def open_stored_study(
    name: str, address: Path | str, objectives: Sequence[Objective]
) -> StoredStudy:
    """Load the study of this name, or make it if there is none; its values have names.

    Raises:
        ServiceError: the storage cannot be used.
    """
    storage = open_storage(address)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[goal.direction for goal in objectives],
            load_if_exists=True,
        )
        _name_values(study, [goal.name for goal in objectives])
        return StoredStudy(study, storage, storage.get_study_id_from_name(name), address)
    except TheseusError:
        raise
    except Exception as error:  # database drivers raise their own kinds
        raise unusable(address, error) from None


def _name_values(study: optuna.Study, names: list[str]) -> None:
    """Name a study's values, unless they have these names; studies of earlier versions have none.

    A study of another number of values is left alone: its search refuses it elsewhere.
    """
    with warnings.catch_warnings():
        # Names are experimental in Optuna 5; without them, it numbers the values as it did.
        warnings.simplefilter("ignore", ExperimentalWarning)
        if study.metric_names != names and len(study.directions) == len(names):
            study.set_metric_names(names)
