"""Our journal passes Optuna's own tests of storages."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from nas_theseus.services.optuna.journal import Journal, open_journal


class TestJournal(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Journal:
        return open_journal(tmp_path / "study.journal")
