"""A finished search and an empty one, recorded by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.searches.records import Records
from tests.unit.searches.recorded import Recorded


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Records:
    recorded = Recorded(tmp_path_factory.mktemp("finished"))
    recorded.finish()
    return recorded.records


@pytest.fixture
def empty(tmp_path: Path) -> Records:
    return Recorded(tmp_path).records
