"""Callbacks that Ray Tune cannot use are refused before Ray starts."""

from __future__ import annotations

import threading

import pytest
from ray.tune import Callback

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray.tune_callbacks import refuse_callbacks


class Locked(Callback):
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_what_is_no_callback_of_tune_is_named() -> None:
    refuse_callbacks([Callback()])
    with pytest.raises(ServiceError) as told:
        refuse_callbacks([Callback(), Locked, print, Locked()])
    said = str(told.value)
    assert "Locked is a class; pass an instance, such as Locked()" in said
    assert "print> (builtin_function_or_method) is no ray.tune.Callback" in said
    assert "SearchSpace(callbacks=[…])" in said
    assert "Locked cannot be pickled" in said and "lock" in said
