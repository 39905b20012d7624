"""What commands say about mistakes, beside those that their own modules find."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from nas_theseus.cli import app
from nas_theseus.cli.commands import front, ui
from nas_theseus.errors import ServiceError, SpaceError, StorageError


def test_a_command_in_a_message_can_be_copied_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "-".join(["a folder"] * 20)
    monkeypatch.setattr(sys, "argv", ["nas-theseus", "report", "absent", "--storage", str(long)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    assert str(long) in capsys.readouterr().err


def test_the_ui_takes_the_place_of_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whoever ends the command by its id leaves no server behind."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _path, arguments: called.append(arguments))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(ServiceError, match=f"port {port}: .* choose another with --port"):
            ui.command(port=port)
    assert not called
    ui.command(port=port)
    (arguments,) = called
    assert arguments[-4:-2] == ["--port", str(port)] and "127.0.0.1" in arguments
    with pytest.raises(ServiceError, match="port 99999"):
        ui.command(port=99999)


def test_options_of_front_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="--refine and --trust-code need --at"):
        front.command("absent", refine=True, storage=tmp_path)
    with pytest.raises(SpaceError, match="--at excludes --where"):
        front.command("absent", at=["macs <= 5"], where="macs < 5", storage=tmp_path)
    with pytest.raises(SpaceError, match="--refine excludes --json"):
        front.command("absent", at=["macs <= 5"], refine=True, as_json=True, storage=tmp_path)
    with pytest.raises(SpaceError, match="'macs <' must read"):
        front.command("absent", at=["macs <"], storage=tmp_path)
    with pytest.raises(StorageError, match="no search 'absent'"):
        front.command("absent", at=["macs <= 5"], storage=tmp_path)
