"""Ray's runtime environment of a user's own, read and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ray.runtime_env import RuntimeEnv

from nas_theseus.errors import ServiceError

# So that relative paths in a space file mean the same in a worker as in the driver.
_OURS = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
_OF_FOLDERS = ("working_dir", "py_modules")


def runtime_environment(given: Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """The runtime environment of a search's workers: the user's own, and what a search needs.

    Args:
        given: fields of `ray.runtime_env.RuntimeEnv`, or a YAML or JSON file with them.

    Raises:
        ServiceError: the file cannot be read, or Ray does not accept its fields.
    """
    if given is None:
        return {"env_vars": dict(_OURS)}
    where = "runtime_env" if isinstance(given, Mapping) else f"--runtime-env {given}"
    fields = dict(given) if isinstance(given, Mapping) else _read(given, where)
    known = RuntimeEnv.known_fields
    if unknown := [str(name) for name in fields if name not in known]:
        raise ServiceError(
            f"{where}: unknown field {', '.join(unknown)}; Ray's runtime environments have "
            f"{', '.join(sorted(known))}"
        )
    _refuse_missing_folders(fields, where)
    variables = fields.get("env_vars", {})
    if not isinstance(variables, Mapping):
        raise ServiceError(f"{where}: env_vars must be a mapping of texts, not {variables!r:.60}")
    fields["env_vars"] = {**_OURS, **variables}
    try:
        RuntimeEnv(**fields)
    except Exception as error:  # Ray raises ValueError, TypeError and others
        raise ServiceError(f"{where}: Ray refuses it: {error}. Correct the file") from error
    return fields


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML, too
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServiceError(f"{where} cannot be read: {reason}; check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ServiceError(f"{where} is neither YAML nor JSON: {text}") from error
    if not isinstance(found, dict):
        raise ServiceError(
            f"{where} must hold fields of Ray's runtime environment, such as env_vars: {{A: B}}, "
            f"not {found!r:.60} ({type(found).__name__})"
        )
    return found


def _refuse_missing_folders(fields: Mapping[str, Any], where: str) -> None:
    """Refuse local folders that are not there; Ray would say that the cluster is unreachable."""
    for name in _OF_FOLDERS:
        value = fields.get(name)
        for place in value if isinstance(value, list) else [value]:
            if isinstance(place, str) and "://" not in place and not Path(place).exists():
                raise ServiceError(f"{where}: {name} {place} does not exist; check the path")
