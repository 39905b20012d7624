"""What a worker process costs before its first job."""

from __future__ import annotations

import subprocess
import sys


def test_a_worker_imports_neither_scipy_nor_another_service() -> None:
    """Each takes a fifth of a worker's start, or more."""
    script = (
        "import sys\n"
        "import nas_theseus.searches.worker\n"
        "import nas_theseus.services.ray.tune\n"
        "print(*sorted({'scipy', 'optuna', 'mlflow', 'plotly'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
