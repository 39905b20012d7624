"""What a search cost, added up from its files."""

from __future__ import annotations

import json
from dataclasses import replace

from nas_theseus.pictures.page import Paragraph, Table
from nas_theseus.searches.energy import Energy
from nas_theseus.searches.figures import duration, short_count
from nas_theseus.searches.records import Records
from nas_theseus.searches.sections.cost import MEMBER


def test_the_sums_are_those_of_the_files(finished: Records) -> None:
    table, text = MEMBER.write(finished)
    assert isinstance(table, Table) and isinstance(text, Paragraph)
    macs, seconds, number = 0, 0.0, 0
    for path in finished.folder.evaluations.iterdir():
        data = json.loads(path.read_text())
        if "cost" in data:  # a failure has none
            macs, seconds = macs + data["train_macs_spent"], seconds + data["seconds"]
            number += 1
    for path in finished.folder.blocks.iterdir():
        data = json.loads(path.read_text())
        macs, seconds = macs + data["macs"], seconds + data["seconds"]
        number += data["failure"] is None
    assert list(table.rows[-1]) == [
        "together", str(number), short_count(macs), duration(seconds),
    ]  # fmt: skip
    assert [row[1] for row in table.rows] == ["10", "2", "2", "14"]
    for expected in (
        "it took 18.0 min", "saved 10 k MACs", "4 blocks came from the library",
        "saved 2.8 k MACs", "3 failed candidates is not recorded", "Energy is not recorded",
    ):  # fmt: skip
        assert expected in text.text


def test_energy_is_that_of_the_file(finished: Records) -> None:
    energy = Energy({"processors": 1500.0, "gpus": 7.2e5}, 2)
    *_, text = MEMBER.write(replace(finished, energy=energy))
    assert isinstance(text, Paragraph)
    assert "processors took 1.5 kJ and gpus took 0.2 kWh in 2 launches" in text.text
    assert "not recorded: no counter" not in text.text
