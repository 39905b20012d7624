"""Callbacks of a space file: what one may be."""

from __future__ import annotations

import inspect
from collections.abc import Callable

# What is called when a search begins or resumes, with each outcome, and so on; each with one
# argument. `nas_theseus.searches.trackers.Tracker` has the arguments.
METHODS = ("begin", "outcome", "front", "results", "end")


def refusal(callback: object) -> str | None:
    """Why an object is no callback; None when it is one.

    A callback is a function of one argument, an outcome; or an object with any of `METHODS`. An
    object without ``outcome`` that can be called is called with each outcome.
    """
    if isinstance(callback, type):
        name = callback.__name__
        return f"{name} is a class; give an object of it, such as {name}()"
    methods = {name: getattr(callback, name) for name in METHODS if hasattr(callback, name)}
    if "outcome" not in methods and callable(callback):
        methods[""] = callback
    if not methods:
        allowed = ", ".join(METHODS)
        return (
            f"{callback!r:.60} ({type(callback).__name__}) is no function and has none of the "
            f"methods {allowed}"
        )
    shown = getattr(callback, "__name__", type(callback).__name__)
    for name, method in methods.items():
        called = f"{shown}.{name}" if name else shown
        if not callable(method):
            return f"{called} is no method but {method!r:.60} ({type(method).__name__})"
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
