"""Seeds of names."""

from __future__ import annotations

from nas_theseus.values.ids import derive_seed


def test_a_seed_derives_from_names_and_their_order() -> None:
    assert derive_seed("a", 1) == derive_seed("a", "1")
    assert derive_seed("a", 1) != derive_seed(1, "a")
    assert 0 <= derive_seed("x") < 2**31
