"""``nas-theseus parts`` of networks by their source."""

from __future__ import annotations

from typer.testing import CliRunner

from nas_theseus.cli.app import make_app


def test_parts_of_a_network_by_its_source_need_no_weights() -> None:
    result = CliRunner().invoke(
        make_app(), ["parts", "torchvision:mobilenet_v3_small"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert "parts of the guide torchvision:mobilenet_v3_small" in result.output
    assert "features.12" in result.output
    assert "(C,H,W) = (16, 112, 112)" in result.output


def test_an_unknown_network_is_refused_with_similar_names() -> None:
    result = CliRunner().invoke(make_app(), ["parts", "torchvision:mobilenet_v9"])
    assert result.exit_code != 0
    assert "similar: mobilenet_v" in str(result.exception)
