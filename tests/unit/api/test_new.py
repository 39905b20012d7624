"""First space files: every template runs, and nothing is overwritten or written by mistake."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nas_theseus.api import new as new_module
from nas_theseus.api.new import constants_of, filled, new_space, template_text
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import SpaceError, StorageError, UnknownNameError
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.registers import TEMPLATES
from tests.unit.export.language_models import llama


def checked(path: Path) -> SearchSpace:
    """A space without mistakes; not every machine has Fashion-MNIST."""
    space = load_space(path)
    lacking = "apt-get install dataset-fashion-mnist"
    assert [one for one in mistakes_in(space) if lacking not in one] == []
    assert CostTable(space).unmeetable() == []
    assert space.count() > 100
    return space


@pytest.mark.parametrize("template", ["digits", "vision", "text"])
def test_templates_that_need_nothing_have_no_mistakes(template: str, tmp_path: Path) -> None:
    checked(new_space(tmp_path / "mine.py", template))


def test_every_template_is_a_member_and_runs_in_a_test() -> None:
    tested = {"digits", "vision", "text", "language-model", "pretrained"}
    assert set(TEMPLATES.shipped) == tested
    for name in TEMPLATES.shipped:
        member = TEMPLATES[name]
        assert inspect.isfunction(member) and member.__name__ == "space"


@pytest.mark.parametrize("template", TEMPLATES.shipped)
def test_written_files_are_clean_and_name_themselves(template: str, tmp_path: Path) -> None:
    text = template_text(template)
    assert "MEMBER" not in text and text.endswith("\n") and not text.endswith("\n\n")
    assert "nas-theseus check my_space.py" in text
    path = new_space(tmp_path / "mine.py", template)
    written = path.read_text(encoding="utf-8")
    assert "my_space" not in written and "nas-theseus check mine.py" in written
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed")
    rules = ["--select", "E,F,I,UP,B,SIM", "--line-length", "100", "--isolated"]
    done = subprocess.run(
        [ruff, "check", *rules, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    form = [ruff, "format", "--check", "--line-length", "100", "--isolated", path]
    done = subprocess.run(form, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_language_model_and_texts_of_ones_own(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder, texts = tmp_path / "model", tmp_path / "my texts"
    llama(vocab_size=320).save_pretrained(folder)
    texts.mkdir()
    (texts / "one.txt").write_text("to be or not to be, that is the question\n" * 4_000)
    learnt = tokenizers.ByteLevelBPETokenizer()
    learnt.train_from_iterator((texts / "one.txt").read_text().splitlines(), vocab_size=300)
    learnt.save(str(folder / "tokenizer.json"))
    given = {"MODEL": folder, "TEXTS": texts}
    path = new_space(tmp_path / "mine.py", "language-model", given)
    text = path.read_text(encoding="utf-8")
    # Less text than the template's own limits, and a model of fewer positions.
    path.write_text(text.replace("CONTEXT = 128", "CONTEXT = 32"), encoding="utf-8")
    space = checked(path)
    assert space.task.name == "texts" and space.task.outputs.shape == (32, 320)
    names = {family.name for family in space.blocks}
    assert names == {
        "keep", "narrow_mlp", "fewer_heads", "attention_to_linear", "linear_part", "skip",
    }  # fmt: skip


def test_a_pretrained_network_and_pictures_of_ones_own(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(30):
        shade = (number, 2 * number, 3 * number)
        Image.new("RGB", (40, 48), shade).save(pictures / f"{number}.png")
    given = {"MODEL": "torchvision:resnet18", "IMAGES": pictures}
    text = new_space(tmp_path / "mine.py", "pretrained", given).read_text(encoding="utf-8")
    for own in (text, new_space(tmp_path / "b.py", "pretrained").read_text(encoding="utf-8")):
        # Random weights, which no test has to download, and small inputs.
        path = tmp_path / "small.py"
        for old, new in (('= "default"', "= None"), ("SIZE: int | None = None", "SIZE = 64")):
            assert old in own
            own = own.replace(old, new)
        path.write_text(own, encoding="utf-8")
        space = checked(path)
        assert space.task.inlet.shape == (3, 64, 64)
        assert space.guide.names[0] == "maxpool" and len(space.guide.names) == 10
    assert space.task.name == "crops" and space.task.size("test") == 100


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("precious")
    with pytest.raises(StorageError, match="mine.py exists, and nothing is overwritten"):
        new_space(path)
    assert path.read_text() == "precious"
    link = tmp_path / "dangling.py"
    link.symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(StorageError, match="exists"):
        new_space(link)
    assert not (tmp_path / "elsewhere.py").exists()


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        new_space(tmp_path / "absent" / "mine.py")


def test_an_unknown_template_is_refused_with_all_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown template 'audio'; use digits, lang"):
        new_space(tmp_path / "mine.py", "audio")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", "'resnet18' is no network: use hf:FOLDER or timm:NAME or torchvision:NAME"),
        ("keras:resnet18", "is no network"),
        ("torchvision:", "is no network"),
        ("torchvision:resnet19", "no network for classes named 'resnet19'; similar: resnet1"),
        ("hf:nowhere", "nowhere has no config.json"),
    ],
)
def test_an_unknown_network_is_refused_and_nothing_is_written(
    model: str, message: str, tmp_path: Path
) -> None:
    if model.startswith("hf"):
        pytest.importorskip("transformers")
    with pytest.raises(SpaceError, match=message):
        new_space(tmp_path / "mine.py", "pretrained", {"MODEL": model})
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_are_said_together(tmp_path: Path) -> None:
    given = {"IMAGES": tmp_path / "absent", "TEXTS": tmp_path}
    with pytest.raises(SpaceError) as caught:
        new_space(tmp_path / "my space", "pretrained", given)
    said = str(caught.value)
    assert "3 mistakes" in said and "call it my space.py" in said
    assert "IMAGES: there is no " in said
    assert "template 'pretrained' has no TEXTS; those that have one: language-model, text" in said
    with pytest.raises(SpaceError, match="'-mine' cannot be the name of a search"):
        new_space(tmp_path / "-mine.py")
    assert list(tmp_path.iterdir()) == []


def test_paths_are_written_absolute_whatever_their_names_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 'a "b" \\ é'
    (tmp_path / odd).mkdir()
    monkeypatch.chdir(tmp_path)
    path = new_space("mine.py", "text", {"TEXTS": Path(odd)})
    names: dict[str, object] = {"Path": Path}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("TEXTS"):
            exec(line, names)
    assert names["TEXTS"] == tmp_path / odd


def test_a_folder_may_be_called_as_the_template_s_own_name(tmp_path: Path) -> None:
    images = tmp_path / "my_space"
    images.mkdir()
    path = new_space(tmp_path / "mine.py", "pretrained", {"IMAGES": images})
    text = path.read_text(encoding="utf-8")
    assert f'Path("{images}")' in text and "nas-theseus check mine.py" in text


def test_the_folder_of_a_network_is_written_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new_module, "_of_network", lambda model: [])
    path = new_space("mine.py", "pretrained", {"MODEL": "hf:vit"})
    assert f'MODEL = "hf:{tmp_path / "vit"}"' in path.read_text(encoding="utf-8")


def test_constants_keep_their_comments() -> None:
    text = 'é = 1\nONE: int | None = None  # é\nTWO = "x"  # two\nlower = 3\n'
    assert list(constants_of(text)) == ["ONE", "TWO"]
    assert filled(text, {"TWO": "y", "ONE": "z"}) == (
        'é = 1\nONE: int | None = "z"  # é\nTWO = "y"  # two\nlower = 3\n'
    )
