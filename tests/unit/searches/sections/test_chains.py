"""The chain of each member: spans, names and similarities."""

from __future__ import annotations

from nas_theseus.pictures.page import Chain, Heading
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.chains import MEMBER


def test_each_member_has_its_blocks_in_order(finished: Records) -> None:
    pieces = MEMBER.write(finished)
    headings = [piece.text for piece in pieces if isinstance(piece, Heading)]
    chains = [piece for piece in pieces if isinstance(piece, Chain)]
    architectures = [member.evaluation.architecture for member in finished.members]
    assert headings == [one.id for one in architectures]
    for chain, architecture in zip(chains, architectures, strict=True):
        assert "|".join(box.text for box in chain.boxes) == architecture.blocks
        assert sum(box.length for box in chain.boxes) == 4
        assert [box.faint for box in chain.boxes] == [
            not box.text.startswith("narrow") for box in chain.boxes
        ]
        assert chain.boxes[0].under.endswith("similarity 0.750")
        assert chain.boxes[-1].under == "part head<1>"
