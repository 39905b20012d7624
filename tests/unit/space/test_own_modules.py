"""Modules beside a space file: each space its own, from its sources alone."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.data import DataLoader

from nas_theseus.space.own_modules import own_package
from nas_theseus.space.sources import Sources
from nas_theseus.values.fingerprint import source_text

BLOCKS = """
from torch import nn

class Gated(nn.Linear):
    def forward(self, x):
        from gates import gate
        return super().forward(x) * gate()
"""
GATES = "def gate():\n    import pkg.deep as deep\n    return deep.FACTOR"
PKG = "from . import sibling\nfrom .sibling import NAME"


def run(
    *, factor: int = 2, path: str = "/nowhere/mine.py", text: str = "import blocks"
) -> ModuleType:
    modules = {
        "blocks.py": BLOCKS, "gates.py": GATES, "pkg/__init__.py": PKG,
        "pkg/sibling.py": "NAME = __name__", "pkg/deep.py": f"FACTOR = {factor}",
        "plain/part.py": "HERE = __file__",
    }  # fmt: skip
    sources = Sources(path, text, tuple(sorted(modules.items())))
    return own_package(sources).run_space_file()


def test_every_form_of_import_finds_the_space_s_own_modules() -> None:
    text = """
import blocks, pkg.deep, plain.part as part
import pkg.sibling as sibling
from pkg import NAME, deep as other
from blocks import *
from . import gates
def names():
    from plain import part as again
    return again
"""
    module = run(text=text)
    assert module.pkg.deep is module.other and module.Gated is module.blocks.Gated
    assert module.NAME == module.sibling.NAME and module.gates.gate() == 2
    assert module.part is module.names()
    assert module.part.HERE == "/nowhere/plain/part.py" and module.__file__ == "/nowhere/mine.py"
    assert not {"blocks", "gates", "pkg", "plain"} & sys.modules.keys()


def test_modules_of_one_name_in_two_spaces_do_not_meet() -> None:
    two, three = run(factor=2), run(factor=3)
    x = torch.ones(1, 2)
    for module, factor in ((two, 2), (three, 3), (two, 2)):
        block = module.blocks.Gated(2, 2)
        plain = torch.nn.Linear.forward(block, x)
        torch.testing.assert_close(block(x), factor * plain)
    assert two.blocks.Gated is not three.blocks.Gated


def test_equal_texts_in_two_folders_know_their_own_folder() -> None:
    text = "import plain.part"
    here, there = (run(path=f"/{name}/mine.py", text=text) for name in ("here", "there"))
    assert here.plain.part.HERE == "/here/plain/part.py"
    assert there.plain.part.HERE == "/there/plain/part.py"


def test_a_module_runs_once_and_the_space_file_each_time() -> None:
    first, second = run(), run()
    assert first is not second and first.blocks is second.blocks


def test_a_module_that_the_sources_lack_is_not_taken_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "unlisted.py").touch()
    with pytest.raises(ModuleNotFoundError, match="unlisted"):
        run(path=str(tmp_path / "mine.py"), text="import unlisted")
    with pytest.raises(ModuleNotFoundError, match="pkg.unlisted"):
        run(path=str(tmp_path / "mine.py"), text="import pkg.unlisted")


def test_classes_are_pickled_and_copied_by_name() -> None:
    made = run().blocks.Gated(2, 2)
    assert type(pickle.loads(pickle.dumps(made))) is type(copy.deepcopy(made)) is type(made)


def test_the_text_that_ran_is_the_source_of_classes(tmp_path: Path) -> None:
    kind = run().blocks.Gated
    assert inspect.getsource(kind).startswith("class Gated") and "gate()" in source_text(kind)
    (tmp_path / "blocks.py").write_text("# edited since")
    kind = run(path=str(tmp_path / "mine.py")).blocks.Gated
    assert inspect.getsource(kind).startswith("class Gated") and "gate()" in source_text(kind)


def test_workers_of_a_data_loader_have_the_modules() -> None:
    text = """
class Data:
    def __len__(self): return 4
    def __getitem__(self, index):
        from pkg.deep import FACTOR
        return FACTOR * index
"""
    data = run(text=text).Data()
    assert [int(x) for x in DataLoader(data, num_workers=1)] == [0, 2, 4, 6]


def test_blocks_compile_and_export() -> None:
    block = run().blocks.Gated(2, 2)
    program = torch.export.export(block, (torch.ones(1, 2),))
    torch.testing.assert_close(program.module()(torch.ones(1, 2)), block(torch.ones(1, 2)))


def test_an_error_in_a_module_is_raised_again_on_the_next_try() -> None:
    sources = Sources("/nowhere/mine.py", "import bad", (("bad.py", "1 / 0"),))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            own_package(sources).run_space_file()


def test_imports_from_elsewhere_are_noted() -> None:
    package = own_package(Sources("/n/mine.py", "import b", (("b.py", "import json.decoder"),)))
    package.run_space_file()
    assert package.met == {"json.decoder": "/n/b.py"}
