"""Good weights, models and libraries, and how the product reads them."""

# ruff: noqa: D103  # makers and readers say by their names what they do

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas_theseus.values.ids import short_hash


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def make_safetensors(folder: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(small_network().state_dict(), folder / "w.safetensors")


def make_checkpoint(folder: Path) -> None:
    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters())
    saved = {"model": network.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict()}
    torch.save(saved, folder / "w.pt")


def make_old_checkpoint(folder: Path) -> None:
    state = small_network().state_dict()
    torch.save(state, folder / "w.pth", _use_new_zipfile_serialization=False)


def read_weights_file(folder: Path) -> None:
    from nas_theseus.guide.weights import load_weights

    names = [name for name in ("w.safetensors", "w.pt", "w.pth") if os.path.lexists(folder / name)]
    network = small_network()
    load_weights(network, folder / (names or ["w.pt"])[0])
    shapes = [tuple(t.shape) for t in network.state_dict().values()]
    assert shapes == [tuple(t.shape) for t in small_network().state_dict().values()]


def _training() -> tuple[Any, Any, Any]:
    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters())
    return network, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)


def make_training(folder: Path) -> None:
    from nas_theseus.conversion.training_checkpoint import Checkpoint, TrainingProgress

    network, optimizer, schedule = _training()
    for _ in range(2):
        network(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        schedule.step()
    Checkpoint(folder / "g.1.checkpoint", "g.1", print).save(
        TrainingProgress(2), network, optimizer, schedule
    )


def sign_training(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data[32:]).digest() + data[32:]


def read_training(folder: Path) -> None:
    from nas_theseus.conversion.training_checkpoint import Checkpoint

    network, optimizer, schedule = _training()
    said: list[str] = []
    found = Checkpoint(folder / "g.1.checkpoint", "g.1", said.append).resume(
        network, optimizer, schedule
    )
    assert said, "neither resumed nor told why not"
    if found is None:
        fresh = small_network().state_dict()
        assert all(torch.equal(t, fresh[n]) for n, t in network.state_dict().items()), "half"
    else:
        assert isinstance(found.epochs, int) and found.epochs >= 0, f"{found}"
        assert isinstance(found.pieces, int) and found.pieces >= 1, f"{found}"


def make_guide_work(folder: Path) -> None:
    read_guide_work(folder)


def read_guide_work(folder: Path) -> None:
    from nas_theseus.conversion.guide_work import GuideWork
    from nas_theseus.guide.chain import Guide
    from nas_theseus.values.architecture import Boundary

    guide = Guide([("a", small_network())], Boundary((4,)))
    sample = torch.arange(32.0).reshape(8, 4)
    work = GuideWork(folder, guide, sample, torch.device("cpu"))
    found = work.get("logits", lambda: torch.full((8, 2), 0.5))
    assert found.shape == (8, 2) and found.dtype == torch.float32, f"{found.shape} {found.dtype}"


def make_llama(folder: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def read_llama(folder: Path) -> None:
    from nas_theseus.guide.huggingface import huggingface_guide, load_language_model

    guide = huggingface_guide(load_language_model(folder), context=16)
    assert len(guide) > 1


def make_gguf(folder: Path) -> None:
    import gguf

    width, hidden, words, layers = 32, 64, 32, 2
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(layers)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"word{number}" for number in range(words)])
    narrow, square = (width // 2, width), (width, width)
    shapes = {
        "attn_q": square, "attn_k": narrow, "attn_v": narrow, "attn_output": square,
        "ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden),
        "attn_norm": (width,), "ffn_norm": (width,),
    }  # fmt: skip
    named = {f"blk.{layer}.{name}": shapes[name] for layer in range(layers) for name in shapes}
    named |= {"token_embd": (words, width), "output_norm": (width,), "output": (words, width)}
    random = np.random.default_rng(0)
    for name, shape in named.items():
        weights = random.normal(size=shape).astype(np.float32)
        if len(shape) == 2 and name.startswith("blk"):  # as in published files
            quantized = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(f"{name}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(folder: Path) -> None:
    from nas_theseus.guide.huggingface import huggingface_guide, load_language_model

    guide = huggingface_guide(load_language_model(folder / "model.gguf"), context=16)
    assert len(guide) > 1


def make_vit(folder: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16},
            "do_resize": True, "do_normalize": True, "do_rescale": True, "resample": 2,
            "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def read_vit(folder: Path) -> None:
    from nas_theseus.guide.sources.hf import load
    from nas_theseus.guide.vision_source import DEFAULT

    load(str(folder), DEFAULT, None)


def _key() -> Any:
    from nas_theseus import Recipe
    from nas_theseus.library.block_key import BlockKey
    from nas_theseus.values.architecture import Boundary, Span

    end = Boundary((4,))
    return BlockKey("g" * 16, "d" * 16, Span(0, 1), "mine", (), end, end, "c" * 16, Recipe())


def _facts() -> Any:
    from nas_theseus.library.record import Facts

    return Facts(similarity=0.9, residual=0.25, steps=3, macs=1000, seconds=0.5, device="cpu")


def make_library(folder: Path) -> None:
    from nas_theseus.library.store import Library

    Library(folder / "library").put(_key(), {"weight": torch.eye(4)}, _facts())


def sign_record(data: bytes) -> bytes:
    """A record with its checksum right again, and of the weights that are there."""
    try:
        content = json.loads(data)
        content.pop("checksum", None)
        return json.dumps({**content, "checksum": short_hash(content, 16)}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data


def read_library(folder: Path) -> None:
    from nas_theseus.library.store import Library

    library = Library(folder / "library", create=False)
    found = library.get(_key(), nn.Linear(4, 4, bias=False))
    if found is not None:
        assert torch.equal(found.state["weight"], torch.eye(4)), "other weights"
        facts = found.record.facts
        numbers = [facts.similarity, facts.residual, facts.steps, facts.macs, facts.seconds]
        assert all(math.isfinite(number) for number in numbers), f"{facts}"
    library.records([_key()])
    list(library.entries())
    library.verify()
    library.prune(guide="g")
