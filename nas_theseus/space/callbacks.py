"""Checks of a space file's callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable

# Methods that a search calls when it begins or resumes, with each outcome, and so on. Each takes
# one argument, which `nas_theseus.searches.trackers.Tracker` describes.
METHODS = ("begin", "outcome", "front", "results", "end")


def refusal(callback: object) -> str | None:
    """Why an object is not a callback; None if it is one.

    A callback is a function of one argument, an outcome, or an object with any of `METHODS`. A
    callable object without the method ``outcome`` is called with each outcome.
    """
    if isinstance(callback, type):
        name = callback.__name__
        return f"{name} is a class; pass an instance, such as {name}()"
    methods = {name: getattr(callback, name) for name in METHODS if hasattr(callback, name)}
    if "outcome" not in methods and callable(callback):
        methods[""] = callback
    if not methods:
        allowed = ", ".join(METHODS)
        return (
            f"{callback!r:.60} ({type(callback).__name__}) is not a function and has none of the "
            f"methods {allowed}"
        )
    shown = getattr(callback, "__name__", type(callback).__name__)
    for name, method in methods.items():
        called = f"{shown}.{name}" if name else shown
        if not callable(method):
            return f"{called} must be a method, not {method!r:.60} ({type(method).__name__})"
        if not _takes_one(method):
            return f"{called} must take one argument, not {inspect.signature(method)}"
    return None


def _takes_one(method: Callable[..., object]) -> bool:
    try:
        inspect.signature(method).bind(None)
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True
