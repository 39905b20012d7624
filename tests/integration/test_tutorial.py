"""The tutorial's code blocks, run from the first to the last as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from tests.integration.serving import served

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SERVE = re.compile(r"^mlflow models serve --env-manager local --host 127.0.0.1 -m (\S+)\n", re.M)
# Where the page's server answers, unless another program uses that port here.
ADDRESS = "http://127.0.0.1:5000"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    work, commands = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    commands.mkdir()
    for name, module in (("nas-theseus", "-m nas_theseus "), ("python", "")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    own |= {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    said = ""
    with ExitStack() as servers:
        address = ADDRESS
        for language, text in BLOCK.findall(page):
            if language == "python":
                name = re.match(r"# (\w+\.py)\n", text)
                assert name, "its first line says the file's name"
                text = text.replace(ADDRESS, address)
                (work / name[1]).write_text(text, encoding="utf-8")
                continue
            # The server goes on beside the commands that follow.
            served_models = SERVE.findall(text)
            done = subprocess.run(
                ["bash", "-ec", SERVE.sub("", text)], cwd=work, env=own, capture_output=True,
                text=True, timeout=600, check=False,
            )  # fmt: skip
            assert done.returncode == 0, text + done.stdout + done.stderr
            said += done.stdout
            for uri in served_models:
                store = {"MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}"}
                log = tmp_path / "serve.log"
                address = servers.enter_context(served(uri, log, **store))
    answers, digits = (
        json.loads(line.partition(":")[2])
        for line in said.splitlines()
        if line.startswith(("answers:", "digits:"))
    )
    assert len(answers) == len(digits) == 5 and set(answers) <= set(range(10))
    for expected in ("wrote first.py", "layers.2", "mine.py: no mistakes", "torch.Size([1, 10])"):
        assert expected in said
    members = read_front(SearchFolder(work / "theseus", "mine"))
    guide = max(member.evaluation.values()["macs"] for member in members)
    assert len(members) > 1 and members[0].evaluation.values()["macs"] < guide
