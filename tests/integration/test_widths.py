"""A whole search of the stream's width: converted, finetuned, loaded and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nas_theseus
from nas_theseus.api.export import export
from nas_theseus.costs import count_macs
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_outcomes
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.outcomes import Evaluation

SPACE = '''
"""A small ResNet whose stream is always narrowed."""

from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Pointwise
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import digits
from nas_theseus.transforms import FewerChannels, NarrowStream


def space():
    network = ResNet((1, 1), width=8)
    return SearchSpace(
        guide=cut(network, network.cuts, inlet=(1, 8, 8)),
        task=digits(),
        blocks=[
            NarrowStream(),
            FewerChannels(keep=choice(0.5, 0.25)).on("block1", "block2"),
            Pointwise(expand=0.5).on("block2"),
        ],
        widths=(0.75, 0.5),
        guide_training=Recipe(epochs=2, distill=0, batch_size=64),
        recipe=Recipe(
            library=True, align_examples=128, align_steps=3, align_batch_size=64, epochs=1,
            batch_size=64, divergence_examples=64,
        ),
    )
'''


@pytest.mark.timeout(900)
def test_a_search_narrows_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.py").write_text(SPACE)
    result = nas_theseus.search(
        tmp_path / "space.py",
        trials=4,
        storage=tmp_path / "theseus",
        executor="inline",
        trackers=("json-lines",),
    )
    assert result.failures == ()
    search = SearchFolder(tmp_path / "theseus", "space")
    evaluations = [o for o in read_outcomes(search) if isinstance(o, Evaluation)]
    assert len(evaluations) == 4
    for evaluation in evaluations:
        first, second, third, last = (one.width_share for one in evaluation.architecture.choices)
        assert first == second < 1 and last == 1
        assert third <= 1
    for member in result.members:
        found = member.evaluation
        network = result.load(found.architecture.id).eval()
        assert count_macs(network, Boundary((1, 8, 8))) == found.cost.macs
        assert found.cost.macs < 0.9 * result.guide["macs"]
    checked = export(
        found.architecture.id, "torch-export", out=tmp_path / "found.pt2", trust_code=True
    )
    assert (tmp_path / "found.pt2").exists() and checked is not None
    inputs = torch.rand(2, 1, 8, 8)
    program = torch.export.load(tmp_path / "found.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(inputs), network(inputs), rtol=1e-4, atol=1e-4)
