"""Runtime environments of a user's own are refused before Ray starts if they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray.runtime_environment import runtime_environment


@pytest.mark.parametrize(
    "text",
    ["env_vars:\n  HERE: there\nexcludes: ['*.bin']\n",
     '{"env_vars": {"HERE": "there"}, "excludes": ["*.bin"]}'],
    ids=["yaml", "json"],
)  # fmt: skip
def test_a_file_of_either_kind_is_read_and_what_a_search_needs_is_added(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "environment"
    path.write_text(text)
    found = runtime_environment(path)
    assert found["env_vars"] == {"RAY_CHDIR_TO_TRIAL_DIR": "0", "HERE": "there"}
    assert found["excludes"] == ["*.bin"]
    assert runtime_environment({"env_vars": {"HERE": "there"}})["env_vars"] == found["env_vars"]
    assert runtime_environment(None) == {"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("env_vars: {A: [", "is neither YAML nor JSON: .*line 1"),
        ("- pip", r"must hold fields of Ray's runtime environment.*\['pip'\] \(list\)"),
        ("pips: [numpy]", "unknown field pips; .*pip, "),
        ("env_vars: [A]", r"env_vars must be a mapping of texts, not \['A'\]"),
        ("env_vars: {A: 1}", "Ray refuses it"),
        ("working_dir: nowhere/at/all", "working_dir nowhere/at/all does not exist"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(
    text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "environment.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ServiceError, match=message) as told:
        runtime_environment(path)
    assert str(path) in str(told.value)


def test_fields_given_from_python_are_checked_alike() -> None:
    wrong: dict[str, Any] = {"workingdir": "."}
    with pytest.raises(ServiceError, match="runtime_env: unknown field workingdir"):
        runtime_environment(wrong)
