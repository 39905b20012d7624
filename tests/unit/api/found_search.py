"""A search that found two networks of digits, made by hand: nothing is trained."""

from __future__ import annotations

from pathlib import Path

from nas_theseus.conversion.target import assemble
from nas_theseus.guide.weights import plain_state
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import gather, write_sources
from nas_theseus.storage.whole_files import write_json, write_tensors
from nas_theseus.values.architecture import Architecture, BlockChoice, span_of
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Cost, CurvePoint, Evaluation, Failure, Stopped

PARTS = ("0", "1", "2", "head")
GOALS = (Objective("val_accuracy", "maximize"), Objective("macs", "minimize", log=True))
# In a module beside the space file. It branches on its inputs, so torch.export cannot trace it.
OWN_BLOCK = '''"""A block of the user's own."""

from torch import nn


class Branching(nn.Module):
    def __init__(self, inlet, outlet):
        super().__init__()
        self.last = nn.Conv2d(inlet.shape[0], outlet.shape[0], 1, inlet.shape[1] // outlet.shape[1])

    def forward(self, x):
        y = self.last(x)
        return y if float(x.sum()) > 0 else -y
'''


def architecture(*blocks: str) -> Architecture:
    """Blocks for the parts ``0``, ``1`` and ``2``; the head is kept."""
    options = {"depthwise": (("expand", 1), ("kernel", 3))}
    return Architecture(
        tuple(
            BlockChoice(span_of(index, index + 1, PARTS), block, options.get(block, ()))
            for index, block in enumerate((*blocks, "keep"))
        )
    )


TRACED = architecture("keep", "depthwise", "linear")
BRANCHING = architecture("keep", "branching", "keep")
STOPPED = architecture("linear", "linear", "linear")
FAILED = architecture("linear", "keep", "keep")


def evaluation(one: Architecture, accuracy: float, macs: int) -> Evaluation:
    curve = (CurvePoint("val_accuracy", 0, 0.2), CurvePoint("val_accuracy", 1, accuracy))
    cost = Cost({"macs": macs, "params": macs // 10})
    return Evaluation(one, "recipe", 0, {"val_accuracy": accuracy}, cost, 99, 1.5, curve)


class FoundSearch:
    """The folder of a search with a traced, a branching, a stopped and a failed architecture.

    Args:
        toy: text of the toy space.
    """

    def __init__(self, root: Path, toy: str, name: str = "found") -> None:
        self.folder = SearchFolder(root / "storage", name)
        self.folder.create()
        own = root / "user"
        own.mkdir(exist_ok=True)
        (own / "own_block.py").write_text(OWN_BLOCK)
        toy = toy.replace(
            "from nas_theseus import",
            "from own_block import Branching\nfrom nas_theseus import block,",
        )
        space_file = own / "space_of_digits.py"
        space_file.write_text(toy.replace("Linear()]", "Linear(), block(Branching)]"))
        self.space = load_space(space_file)
        write_sources(self.folder.folder, gather(space_file))
        Beginning(
            name + "-id", "theseus", 0, 0, True, True, GOALS, (), "guide", "recipe", "study"
        ).write(self.folder)  # fmt: skip

    def finish(self) -> None:
        """Save results, and test metrics of the front."""
        for one in (evaluation(TRACED, 0.8, 1000), evaluation(BRANCHING, 0.9, 2000)):
            network = assemble(self.space, one.architecture, 0)
            write_tensors(self.folder.weights_of(one.name), plain_state(network))
            self.folder.write_outcome(one)
            tested = self.folder.front / one.architecture.id / "test.json"
            write_json(tested, {"test_accuracy": one.value("val_accuracy") - 0.1})
        half = evaluation(STOPPED, 0.5, 500)
        self.folder.write_outcome(Stopped("epoch_1", half, {"val_accuracy": 0.6}))
        self.folder.write_outcome(Failure(FAILED, "recipe", 0, "align", "loss is nan"))
