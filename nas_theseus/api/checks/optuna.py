"""Optuna: whether it has what the samplers use, and whether the study's database answers."""

from __future__ import annotations

from collections.abc import Iterator

from nas_theseus.api.doctor import Asked, Finding


def check(asked: Asked) -> Iterator[Finding]:
    """Optuna itself and, if a study's URL is given, its database."""
    import optuna

    from nas_theseus.services.optuna import private
    from nas_theseus.services.optuna.storage import reach
    from nas_theseus.storage.redaction import without_credentials

    private.check()
    if asked.study is None:
        yield Finding("Optuna", "ok", f"{optuna.__version__}; studies are files in the storage")
        return
    reach(asked.study)
    shown = without_credentials(asked.study)
    yield Finding("Optuna", "ok", f"{optuna.__version__}; the study's database {shown} answers")


MEMBER = check
