"""What is said of nodes that cannot run a search."""

from __future__ import annotations

from pathlib import Path

from nas_theseus.services.ray.nodes import PACKAGES, Answer, mistakes_of, versions_here

HERE = versions_here()
FOLDER = Path("/shared/theseus")


def test_this_process_knows_its_versions() -> None:
    assert set(HERE) == {"python", *PACKAGES}
    assert all(HERE.values())


def test_a_node_like_this_one_has_no_mistakes() -> None:
    assert mistakes_of([Answer("10.0.0.1", "token", True, HERE)], HERE, FOLDER) == []


def test_everything_that_is_wrong_is_told_with_the_node() -> None:
    answers = [
        Answer("10.0.0.1", None, False, HERE, "No such file or directory"),
        Answer("10.0.0.2", "token", False, HERE, "Read-only file system"),
        Answer("10.0.0.3", "token", True, {**HERE, "torch": "1.0", "nas-theseus": None}),
        Answer("10.0.0.4", None, False, {}, "no answer within 120 s"),
    ]
    read, write, others, silent = mistakes_of(answers, HERE, FOLDER)
    assert "10.0.0.1 cannot read" in read and "No such file" in read and "--storage" in read
    assert "10.0.0.2 cannot write" in write and "Read-only" in write
    assert f"torch 1.0 there, {HERE['torch']} here" in others
    assert "nas-theseus not installed there" in others
    assert "10.0.0.4 does not answer" in silent


def test_another_patch_of_python_is_no_mistake_and_another_minor_is() -> None:
    other = {**HERE, "python": "2.7"}
    (told,) = mistakes_of([Answer("n", "token", True, other)], HERE, FOLDER)
    assert "python 2.7 there" in told
    assert str(HERE["python"]).count(".") == 1
