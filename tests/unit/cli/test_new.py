"""``nas-theseus new``: options, and what is said where the new space cannot be checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nas_theseus.cli.app import make_app


def new(*arguments: str | Path) -> Result:
    return CliRunner().invoke(make_app(), ["new", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_first_space_is_written_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    result = new(path)
    assert result.exit_code == 0, result.output
    for expected in (
        f"wrote {path}", "no mistakes", "architectures", "cost range",
        f"next: nas-theseus search {path} --trials 12, then nas-theseus front mine",
    ):  # fmt: skip
        assert expected in result.output
    assert "class GatedConv" in path.read_text(encoding="utf-8")


def test_a_space_that_cannot_be_checked_yet_is_kept_and_the_remedy_said(tmp_path: Path) -> None:
    path, texts = tmp_path / "mine.py", tmp_path / "texts"
    texts.mkdir()
    (texts / "short.txt").write_text("too short")
    result = new(path, "--text", "--texts", texts)
    assert result.exit_code != 0
    said = str(result.exception)
    assert "mine.py is written and kept, but cannot be searched yet" in said
    assert f"nas-theseus check {path}" in said and "give more text" in said
    assert path.is_file()


@pytest.mark.parametrize(
    "options", [("--vision", "--text"), ("--from", "torchvision:resnet18", "--template", "digits")]
)
def test_kinds_exclude_each_other(options: tuple[str, ...], tmp_path: Path) -> None:
    result = new(tmp_path / "mine.py", *options)
    assert result.exit_code != 0 and "exclude each other" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_pictures_for_a_space_without_them_are_refused(tmp_path: Path) -> None:
    result = new(tmp_path / "mine.py", "--images", tmp_path)
    assert "template 'digits' has no IMAGES; those that have one: pretrained" in str(
        result.exception
    )
    assert list(tmp_path.iterdir()) == []
