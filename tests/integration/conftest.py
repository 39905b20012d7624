"""What integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest


@pytest.fixture(autouse=True)
def mlflow_forgets_its_store() -> Iterator[None]:
    """A store that a test has set would stand before MLFLOW_TRACKING_URI in the tests after it."""
    yield
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
