"""Folders for transformers: plain ones, ones with code, generation, tokenizers and refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor, nn

from nas_theseus.blocks import (
    GRU,
    AttentionToLinear,
    AttentionToRecurrence,
    BlockFamily,
    CausalConv,
    ChannelMLP,
    Identity,
    Linear,
    LinearAttention,
    MinimalRNN,
    SelfAttention,
    block,
)
from nas_theseus.errors import ExportError
from nas_theseus.export.format import Checked, write_format
from nas_theseus.export.formats.huggingface import HuggingFace
from nas_theseus.export.huggingface.loading import forget_code, load_folder
from nas_theseus.export.member import Member
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.guide.sublayers import Sublayer
from nas_theseus.values.architecture import Boundary
from tests.unit.export.language_models import (
    CONTEXT,
    KEEP,
    LAYERS,
    LINEAR,
    LOW_RANK,
    NARROW,
    NARROWER,
    ONE_HEAD,
    SHARED_KEYS,
    SKIP,
    SLIDING,
    VOCABULARY,
    Texts,
    found_model,
    generate,
    llama,
    made_of_part,
)
from tests.unit.export.members import MAP, between

pytest.importorskip("transformers")

MLPS, ATTENTIONS = ([f"{kind}{index}" for index in range(LAYERS)] for kind in ("mlp", "attention"))
MIXED = {
    "attention0": SHARED_KEYS,
    "mlp0": NARROW,
    "attention1": SLIDING,
    "mlp1": LOW_RANK,
    "attention2": SKIP,
    "mlp2": NARROWER,
    "attention3": LINEAR,
}


def write(found: Member, folder: Path, **options: Any) -> Checked:
    return write_format(found, "huggingface", folder, options=options)


def config(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return said


def texts(rows: int = 3, tokens: int = 9) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_the_guide_itself_is_a_plain_folder_with_the_same_logits(tmp_path: Path) -> None:
    model = llama()
    checked = write(found_model(model, {}), tmp_path / "net")
    names = {path.name for path in (tmp_path / "net").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    sizes = [path.stat().st_size for path in (tmp_path / "net").iterdir()]
    assert checked.size_bytes == sum(sizes)
    assert config(tmp_path / "net")["model_type"] == "llama"
    torch.testing.assert_close(
        load_folder(tmp_path / "net")(texts()).logits, model(texts()).logits, rtol=0, atol=0
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({name: NARROW for name in MLPS}, {"intermediate_size": 48, "num_attention_heads": 4}),
        (
            {name: ONE_HEAD for name in ATTENTIONS},
            {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
        ),
        ({name: SHARED_KEYS for name in ATTENTIONS}, {"num_key_value_heads": 1}),
        ({"attention1": SKIP, "mlp1": SKIP}, {"num_hidden_layers": LAYERS - 1}),
        # What is left alternates, whichever layers it is from.
        ({"mlp1": SKIP, "attention2": Identity()}, {"num_hidden_layers": LAYERS - 1}),
        ({name: SLIDING for name in ATTENTIONS}, {"model_type": "mistral", "sliding_window": 5}),
    ],
)
def test_uniform_sizes_change_the_configuration_only(
    chosen: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    found = found_model(llama(), chosen)
    write(found, tmp_path / "net")
    said = config(tmp_path / "net")
    assert {key: said[key] for key in expected} == expected
    assert "auto_map" not in said and not (tmp_path / "net" / "modeling_theseus.py").exists()
    # It can be a guide again, of as many parts.
    guide = huggingface_guide(tmp_path / "net", CONTEXT)
    assert len(guide) == 2 * said["num_hidden_layers"] + 2
    with torch.no_grad():
        torch.testing.assert_close(guide(texts()), found.network(texts()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", ["sublayer", "layer"])
def test_whole_layers_and_other_families_are_plain(granularity: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    )
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(sizes).eval()
    skipped = ["layer1"] if granularity == "layer" else ["attention1", "mlp1"]
    chosen = {name: SKIP for name in skipped}
    write(found_model(model, chosen, granularity=granularity), tmp_path / "net")
    said = config(tmp_path / "net")
    assert said["model_type"] == "qwen3"
    assert said["layer_types"] == ["full_attention", "sliding_attention"]


def test_layers_that_differ_have_a_modelling_file(tmp_path: Path) -> None:
    found = found_model(llama(), MIXED)
    write(found, tmp_path / "net")
    said = config(tmp_path / "net")
    assert said["auto_map"]["AutoModelForCausalLM"] == "modeling_theseus.TheseusForCausalLM"
    assert len(said["layers"]) == said["num_hidden_layers"] == 2 * LAYERS - 1
    widths = [one["inner"]["up"]["out_features"] for one in said["layers"][1::2][:1]]
    assert widths == [48]
    readings = [one.get("inner", {}).get("reading", {}) for one in said["layers"]]
    windows = [one.get("window") for one in readings]
    assert windows.count(5) == 1
    assert said["max_position_embeddings"] == 64 and said["eos_token_id"] == 2
    text = (tmp_path / "net" / "modeling_theseus.py").read_text()
    assert "class Attention(nn.Module):" in text and "class LowRankLinear(nn.Module):" in text
    assert "import nas_theseus" not in text and "from nas_theseus" not in text
    assert "GRU" not in text and "Layer(" not in text.replace("Sublayer(", "")
    with safetensors.safe_open(tmp_path / "net" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "embed.tokens.weight" in names and "head.output.weight" not in names  # tied


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("mixed") / "net"
    write(found_model(llama(), MIXED), folder)
    return load_folder(folder)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "num_beams": 2}])
def test_generation_with_a_cache_gives_the_text_without(
    mixed: Any, options: dict[str, Any]
) -> None:
    found = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        found.append(generate(mixed, texts(), use_cache=use_cache, **options))
    assert found[0].shape == (3, 21)
    assert torch.equal(*found)


def test_the_cache_is_continued_by_hand_as_well(mixed: Any) -> None:
    ids = texts(2, 20)
    with torch.no_grad():
        whole = mixed(ids).logits
        first = mixed(ids[:, :13], use_cache=True)
        rest = mixed(ids[:, 13:], past_key_values=first.past_key_values, use_cache=True)
    together = torch.cat([first.logits, rest.logits], dim=1)
    torch.testing.assert_close(together, whole, rtol=1e-4, atol=1e-5)
    assert rest.past_key_values.get_seq_length() == 20
    # A window of 5 tokens keeps no more of them.
    states = rest.past_key_values.groups[0][2]
    kept = sorted({state["keys"].shape[2] for state in states if "keys" in state})
    assert kept == [5, 20]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_before_texts_changes_nothing(mixed: Any, num_beams: int) -> None:
    lengths, ids = (9, 4, 9, 6), texts(4)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        ids[row, : 9 - length], mask[row, : 9 - length] = 0, 0
    found = generate(mixed, ids, attention_mask=mask, num_beams=num_beams)
    for row, length in enumerate(lengths):
        alone = generate(mixed, ids[row : row + 1, 9 - length :], num_beams=num_beams)
        assert torch.equal(found[row, 9 - length :], alone[0]), length


def test_padding_after_texts_is_for_reading_alone(mixed: Any) -> None:
    ids, mask = texts(2), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    with torch.no_grad():
        logits = mixed(ids, attention_mask=mask).logits
        torch.testing.assert_close(logits[1, :6], mixed(ids[1:, :6]).logits[0])
    with pytest.raises(ValueError, match="padding_side = 'left'"):
        generate(mixed, ids, attention_mask=mask)


def test_labels_give_a_loss_that_trains(mixed: Any) -> None:
    ids = texts()
    loss = mixed(ids, labels=ids).loss
    logits = mixed(ids).logits
    by_hand = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert all(one.grad is not None for one in mixed.parameters())
    mixed.zero_grad()


def test_a_loaded_model_is_saved_again_with_its_code(tmp_path: Path) -> None:
    write(found_model(llama(), MIXED), tmp_path / "net")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(tmp_path / "net"), trust_remote_code=True
    )
    model.save_pretrained(tmp_path / "again")
    forget_code(model)
    again = load_folder(tmp_path / "again")
    with torch.no_grad():
        torch.testing.assert_close(again(texts()).logits, model(texts()).logits)


def test_a_fresh_process_without_nas_theseus_reads_the_folder(tmp_path: Path) -> None:
    found = found_model(llama(), {**MIXED, "mlp3": CausalConv()})
    write(found, tmp_path / "net")
    torch.save(texts(), tmp_path / "ids.pt")
    program = (
        "import sys, torch; sys.modules['nas_theseus'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained('net', trust_remote_code=True)\n"
        "with torch.no_grad(): torch.save(model(torch.load('ids.pt')).logits, 'logits.pt')\n"
    )
    settings = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, **settings}, check=True
    )
    with torch.no_grad():
        logits = torch.load(tmp_path / "logits.pt")
        torch.testing.assert_close(logits, found.network(texts()), rtol=1e-4, atol=1e-5)


def test_networks_across_families_generate_with_a_state_of_fixed_size(tmp_path: Path) -> None:
    chosen = {
        "attention0": AttentionToLinear(window=4, slots=5),
        "attention1": AttentionToRecurrence(window=2, slots=5),
        "attention2": LinearAttention(causal=True),
        "mlp2": ChannelMLP(),
        "attention3": MinimalRNN(kernel=3, mlp=1.0),
        "mlp3": GRU(),
    }
    found = found_model(llama(), chosen)
    write(found, tmp_path / "net")
    assert config(tmp_path / "net")["use_cache"]
    model = load_folder(tmp_path / "net")
    with torch.no_grad():
        logits = model(texts()).logits
        torch.testing.assert_close(logits, found.network(texts()), rtol=1e-4, atol=1e-5)
    kept = [generate(model, texts(), use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*kept)
    sizes = []
    for tokens in (20, 40):
        with torch.no_grad():
            cache = model(texts(1, tokens), use_cache=True).past_key_values
        states = cache.groups[0][2]
        sizes.append(sum(tensor.numel() for state in states for tensor in state.values()))
    assert sizes[0] == sizes[1]


class RunningMean(nn.Module):
    """Causal, for any number of tokens, and without a state."""

    def __init__(self, inlet: Boundary, outlet: Boundary, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.last = nn.Linear(inlet.width, outlet.width)

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        out: Tensor = x + self.last(self.scale * x.cumsum(1) / counts)
        return out


class Triangle(nn.Module):
    """Causal, for one number of tokens."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inlet.shape[0], inlet.shape[0]) / 9)
        self.last = nn.Linear(inlet.width, outlet.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(self.weight.tril() @ x)
        return out


@pytest.mark.parametrize(
    ("stateless", "padded"), [(block(RunningMean, scale=2.0), False), (block(Triangle), True)]
)
def test_blocks_that_cannot_go_on_run_the_whole_text(
    stateless: BlockFamily, padded: bool, tmp_path: Path
) -> None:
    found = found_model(llama(), {"mlp1": stateless})
    write(found, tmp_path / "net")
    said = config(tmp_path / "net")
    assert (said["use_cache"], said["padded"]) == (False, padded)
    model = load_folder(tmp_path / "net")
    with torch.no_grad():
        whole = found.network(texts(3, CONTEXT))
        torch.testing.assert_close(
            model(texts(3, CONTEXT)[:, :9]).logits, whole[:, :9], rtol=1e-4, atol=1e-5
        )
    assert generate(model, texts()).shape == (3, 21)
    with pytest.raises(ValueError, match="use_cache=False"):
        generate(model, texts(), use_cache=True)
    if padded:
        with pytest.raises(ValueError, match=f"25 tokens; this model takes {CONTEXT}"):
            model(texts(1, 25))
    assert "`use_cache=False`" in (tmp_path / "net" / "README.md").read_text()


class Forgetful(nn.Module):
    """Says that it can go on token by token, and does not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        return x.cumsum(dim=1)

    def state_elements(self, tokens: int) -> int:
        return 0 * tokens


def forgetful(part: Any, features: Tensor) -> nn.Module:
    return Sublayer(Forgetful(64), part.norm)


def test_a_block_that_forgets_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    found = found_model(llama(), {"attention1": made_of_part(forgetful)})
    with pytest.raises(ExportError, match="with a cache and without; a block's state"):
        write(found, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


class Unnamed(nn.Module):
    """Keeps its argument under another name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.Linear(width, width)

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        out: Tensor = self.maps(x)
        return out


def unnamed(part: Any, features: Tensor) -> nn.Module:
    return Sublayer(Unnamed(64), part.norm)


def test_a_block_that_cannot_be_described_is_named(tmp_path: Path) -> None:
    found = found_model(llama(), {"mlp1": made_of_part(unnamed)})
    with pytest.raises(ExportError, match=r"block 4: unnamed for part 4.*'width'.*self\.width"):
        write(found, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", [{}, MIXED])
def test_weights_in_bfloat16_take_half_the_place(chosen: dict[str, Any], tmp_path: Path) -> None:
    found = found_model(llama(), chosen)
    full = write(found, tmp_path / "full")
    half = write(found, tmp_path / "half", dtype="bfloat16")
    assert 0 < half.relative < 0.02 and full.relative < 1e-6
    sizes = [(tmp_path / one / "model.safetensors").stat().st_size for one in ("half", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    assert config(tmp_path / "half")["dtype"] == "bfloat16"
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(tmp_path / "half"), trust_remote_code=bool(chosen), dtype="auto"
    )
    forget_code(model)
    assert model.dtype == torch.bfloat16
    assert generate(model, texts()).shape == (3, 21)


def tokenizer(folder: Path, tokens: int = VOCABULARY) -> Path:
    """A folder with a tokenizer of single characters."""
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir()
    vocabulary = {chr(40 + number): number for number in range(tokens)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="("))
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("chosen", [{}, MIXED])
@pytest.mark.parametrize("where", ["option", "file", "task", "guide"])
def test_the_tokenizer_goes_along(where: str, chosen: dict[str, Any], tmp_path: Path) -> None:
    source, model, task, options = tmp_path / "source", llama(), Texts(), {}
    if where == "guide":
        model.save_pretrained(source)
        tokenizer(tmp_path / "made").joinpath("tokenizer.json").rename(source / "tokenizer.json")
        model = source
    else:
        tokenizer(source)
    if where == "task":
        task = Texts(source / "tokenizer.json")
    elif where != "guide":
        options = {"tokenizer": source if where == "option" else source / "tokenizer.json"}
    write(found_model(model, chosen, task), tmp_path / "net", **options)
    transformers = pytest.importorskip("transformers")
    read = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "net"))
    assert read("*+,")["input_ids"] == [2, 3, 4]
    assert "No tokenizer" not in (tmp_path / "net" / "README.md").read_text()


def test_tokenizers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    found = found_model(llama(), {})
    with pytest.raises(ExportError, match="source has 200 tokens, the network 128: it is another"):
        write(found, tmp_path / "net", tokenizer=tokenizer(tmp_path / "source", 200))
    with pytest.raises(ExportError, match="nothing holds no tokenizer; give a folder with"):
        write(found, tmp_path / "net", tokenizer=tmp_path / "nothing")
    assert not (tmp_path / "net").exists()


def test_the_card_says_what_was_measured_and_how_to_load(tmp_path: Path) -> None:
    found = found_model(llama(), MIXED)
    write(found, tmp_path / "net")
    card = (tmp_path / "net" / "README.md").read_text()
    for text in (
        "| val_perplexity | 17.5 |",
        "| macs | 1,234,567 |",
        "| mlp0 | narrow_mlp(keep=0.5) | 9,280 |",
        "trust_remote_code=True",
        "No tokenizer was found",
        "the guide llama",
        f"converted to {found.network.architecture.id}",
    ):
        assert text in card, text
    assert str(tmp_path) not in card + (tmp_path / "net" / "config.json").read_text()


def test_networks_that_are_no_language_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="huggingface: it maps .*language models"):
        write(between(MAP, MAP, Linear()), tmp_path / "net")
    with pytest.raises(ExportError, match="change with later tokens, as those of encoders"):
        write(found_model(llama(), {"attention1": SelfAttention()}), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_options_folders_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_model(llama(), {"mlp0": KEEP})
    with pytest.raises(ExportError, match="dtype is float32 or bfloat16, not 'int8'"):
        HuggingFace("int8")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="no option size; its options are dtype, tokenizer"):
        write(found, tmp_path / "net", size=3)
    with pytest.raises(ExportError, match="format safetensors has no option dtype; it has no"):
        write_format(found, "safetensors", tmp_path / "net", options={"dtype": "bfloat16"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ExportError, match="full is a folder with files in it; remove it"):
        write(found, tmp_path / "full")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else real(name)
    )
    with pytest.raises(ExportError, match="needs transformers, .*'pip install transformers'"):
        write(found, tmp_path / "net")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]
