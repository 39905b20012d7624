"""Checks of the callbacks of Ray Tune that a user gives to a search."""

from __future__ import annotations

from collections.abc import Sequence

from ray import cloudpickle
from ray.tune import Callback

from nas_theseus.errors import ServiceError


def refuse_callbacks(callbacks: Sequence[object]) -> None:
    """Refuse what Tune cannot use as a callback.

    Raises:
        ServiceError: lists all such callbacks, with what each is.
    """
    mistakes = [mistake for one in callbacks if (mistake := _mistake(one))]
    if mistakes:
        raise ServiceError("callbacks: " + "; ".join(mistakes))


def _mistake(callback: object) -> str | None:
    if isinstance(callback, type) and issubclass(callback, Callback):
        return f"{callback.__name__} is a class; pass an instance, such as {callback.__name__}()"
    if not isinstance(callback, Callback):
        return (
            f"{callback!r:.60} ({type(callback).__name__}) is no ray.tune.Callback; a function of "
            "one outcome belongs into the space file, as SearchSpace(callbacks=[…])"
        )
    try:
        cloudpickle.dumps(callback)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the callback holds may raise anything
        return (
            f"{type(callback).__name__} cannot be pickled, which Tune does with its settings "
            f"({type(error).__name__}: {error}); leave what cannot be out of its __getstate__"
        )
    return None
