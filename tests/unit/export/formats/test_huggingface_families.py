"""Each family of language models: exported as its own kind and with a modelling file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nas_theseus.export.format import write_format
from nas_theseus.export.huggingface.loading import load_folder
from nas_theseus.guide.huggingface import cut_model, huggingface_guide
from tests.unit.export.language_models import (
    LINEAR,
    LOW_RANK,
    NARROW,
    SKIP,
    Texts,
    found_model,
    generate,
)
from tests.unit.guide.test_families import CASES, CONTEXT, DECODERS, WORDS, inputs, tiny


@pytest.mark.parametrize("name", DECODERS)
def test_a_guide_is_a_plain_folder_of_its_family(name: str, tmp_path: Path) -> None:
    model, task = tiny(name), Texts(context=CONTEXT, vocabulary=WORDS)
    checked = write_format(found_model(model, {}, task), "huggingface", tmp_path / "net")
    assert checked.relative < 1e-5
    said = json.loads((tmp_path / "net" / "config.json").read_text())
    assert said["model_type"] == model.config.model_type and "auto_map" not in said
    loaded = load_folder(tmp_path / "net")
    assert type(loaded).__name__ == CASES[name][0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs(name)).logits, model(inputs(name)).logits)
    assert len(huggingface_guide(tmp_path / "net", CONTEXT)) == len(cut_model(model))


@pytest.mark.parametrize("name", DECODERS)
def test_layers_that_differ_have_a_modelling_file_in_every_family(
    name: str, tmp_path: Path
) -> None:
    model, task = tiny(name), Texts(context=CONTEXT, vocabulary=WORDS)
    parts = [part for part, _ in cut_model(model)]
    chosen = {"layer0": NARROW, "layer1": LOW_RANK}
    if "mlp0" in parts:
        chosen = {"mlp0": NARROW, "attention1": LINEAR, "mlp1": LOW_RANK, "attention2": SKIP}
    chosen = {part: block for part, block in chosen.items() if part in parts}
    found = found_model(model, chosen, task)
    checked = write_format(found, "huggingface", tmp_path / "net")
    assert checked.relative < 1e-5
    said = json.loads((tmp_path / "net" / "config.json").read_text())
    assert said["model_type"] == "theseus" and said["use_cache"]
    loaded, ids = load_folder(tmp_path / "net"), inputs(name)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, found.network(ids), rtol=1e-4, atol=1e-5)
    texts = [generate(loaded, ids, use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*texts)
