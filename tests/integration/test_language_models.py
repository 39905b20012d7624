"""A language model from a folder is searched, and what is found is a folder of its kind again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nas_theseus.api.export import export
from nas_theseus.errors import ExportError, StorageError
from nas_theseus.export.huggingface.loading import load_folder
from nas_theseus.export.member import load
from nas_theseus.searches.folder import SearchFolder
from tests.integration.commands import Desk

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.timeout(900)

SPACE = """
from pathlib import Path

import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, choice
from nas_theseus.blocks import Keep, NarrowMLP, SkipPart, SlidingWindow, block
from nas_theseus.guide.huggingface import huggingface_guide
from nas_theseus.tasks import text_file

from running import MEANS
FOLDER = Path(__file__).parent


def space():
    mlps, attentions = ([f"{kind}{i}" for i in range(2)] for kind in ("mlp", "attention"))
    return SearchSpace(
        guide=huggingface_guide(FOLDER / "guide", 16),
        task=text_file(
            FOLDER / "text.txt", level="bpe", context=16, tokenizer=FOLDER / "guide/tokenizer.json"
        ),
        blocks=[
            NarrowMLP(keep=choice(0.5, 0.25)).on(*mlps), SlidingWindow(window=4).on(*attentions),
            SkipPart().on("attention1"), *(one.on("mlp0") for one in MEANS),
            Keep().on("embed", "head"),
        ],
        keep=["embed", "head"],
        recipe=Recipe(epochs=1, align_steps=2, align_examples=32, batch_size=16),
    )
"""
OWN = """
import torch
from torch import nn

from nas_theseus.blocks import block


class RunningMean(nn.Module):
    def __init__(self, inlet, outlet, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.last = nn.Linear(inlet.width, outlet.width)

    def forward(self, x):
        counts = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return x + self.last(self.scale * x.cumsum(1) / counts)


MEANS = [block(RunningMean, "mean", scale=0.5)]
"""
TEXT = "".join(f"{i} times {j} is {i * j}.\n" for i in range(32) for j in range(32))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A folder with a small Llama, a text and a finished search."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    (desk.folder / "language.py").write_text(SPACE)
    (desk.folder / "running.py").write_text(OWN)
    (desk.folder / "text.txt").write_text(TEXT)
    letters = {letter: number for number, letter in enumerate(sorted(set(TEXT)))}
    config = transformers.LlamaConfig(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(desk.folder / "guide")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    made.save(str(desk.folder / "guide" / "tokenizer.json"))
    desk.search_file(
        "language.py", "--executor", "inline", "--parallel", "1", "--sampler", "random",
        "--trials", "8",
    )  # fmt: skip
    return desk


def exported(desk: Desk, name: str, **options: object) -> Path:
    """The folder that a member of the front is exported to."""
    out, storage = desk.folder / f"{name}-folder", desk.folder / "theseus"
    checked = export(name, "huggingface", out=out, storage=storage, trust_code=True, **options)
    assert checked.path == out and checked.examples > 30 and checked.relative < 1e-4
    return out


def test_all_members_of_the_front_become_folders_that_generate(desk: Desk) -> None:
    front = SearchFolder(desk.folder / "theseus", "language").front
    members = sorted(path.name for path in front.iterdir() if path.is_dir())
    assert members
    for name in members:
        folder = exported(desk, name)
        model = load_folder(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        given = tokenizer("3 times 4", return_tensors="pt")
        network = load(front / name, trust_code=True)
        with torch.no_grad():
            ids = given["input_ids"]
            torch.testing.assert_close(model(ids).logits, network(ids), rtol=1e-4, atol=1e-5)
        written = model.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        assert written.shape == (1, len("3 times 4") + 5)
        assert tokenizer.decode(written[0]).replace(" ", "").startswith("3times4")
        card, config = (folder / "README.md").read_text(), (folder / "config.json").read_text()
        assert "val_perplexity" in card and "the guide guide" in card
        assert str(desk.folder) not in card + config
        own = "mean(" in card  # a block from beside the space file
        coded = json.loads(config)["model_type"] == "theseus"
        assert coded or not own
        text = (folder / "modeling_theseus.py").read_text() if coded else ""
        assert own == ("class RunningMean" in text)


def test_the_command_tells_what_is_wrong_before_it_writes(desk: Desk) -> None:
    front = SearchFolder(desk.folder / "theseus", "language").front
    name = next(path.name for path in front.iterdir() if path.is_dir())
    asked = ("export", name, "--format", "huggingface", "--trust-code")
    refused = desk.run(*asked, "--out", "guide")
    assert refused.returncode == 2 and "guide is a folder with files" in refused.stderr
    done = desk.run(*asked, "--dtype", "bfloat16", "--tokenizer", "guide")
    assert done.returncode == 0 and f"{name}-huggingface: " in done.stdout, done.stderr
    assert (desk.folder / f"{name}-huggingface" / "tokenizer.json").is_file()
    with pytest.raises(ExportError, match="float32 or bfloat16"):
        exported(desk, name, dtype="int4")
    with pytest.raises(StorageError, match="trust_code=True"):
        export(name, "huggingface", storage=desk.folder / "theseus")
