"""``nas-theseus parts``: where a model can be cut."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="SPACE.py, a model or Guide as module:callable (torchvision.models:resnet18), or "
            "a network of vision_guide (timm:convnext_tiny)."
        ),
    ],
    inlet: Annotated[
        str, typer.Option(help="Shape of one input, for a module:callable.")
    ] = "3,224,224",
) -> None:
    """Where a model can be cut: names for cut(at=[…]), boundary shapes, parameters and MACs."""
    from nas_theseus.cli.tables import plain_table
    from nas_theseus.costs import cost_of
    from nas_theseus.guide.chain import Guide
    from nas_theseus.guide.cut import cut, cut_points
    from nas_theseus.searches.figures import short_count
    from nas_theseus.space.load import load_space

    if model.endswith(".py"):
        guide = load_space(model).guide
        title = f"parts of the guide in {model}"
    else:
        guide = _model(model)
        title = f"parts of the guide {model}"
        if not isinstance(guide, Guide):
            shape = _shape(inlet)
            guide = cut(guide, [point.name for point in cut_points(guide, shape)], shape)
            title = f"{model} can be cut after these names (all of them cut here)"
    rows = []
    for index, (name, part) in enumerate(zip(guide.names, guide.parts, strict=True)):
        cost = cost_of(part, guide.boundaries[index])
        rows.append(
            [
                name,
                str(guide.boundaries[index + 1]),
                short_count(cost.params),
                short_count(cost.macs),
            ]
        )
    Console().print(plain_table(title, ["part", "boundary behind it", "params", "MACs"], rows))


def _model(text: str) -> Any:
    from nas_theseus.errors import SpaceError
    from nas_theseus.guide.vision import vision_guide
    from nas_theseus.values.registers import SOURCES

    module, _, attribute = text.partition(":")
    if module in SOURCES:
        return vision_guide(text, weights=None)  # the parts do not depend on the weights
    sys.path.insert(0, os.getcwd())  # the user's own module, as `python -m` would find it
    try:
        return getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # whatever the user's module or model raises
        raise SpaceError(
            text,
            [f"{error}; give SPACE.py or module:callable (torchvision.models:resnet18)"],
        ) from error


def _shape(text: str) -> tuple[int, ...]:
    from nas_theseus.errors import SpaceError

    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise SpaceError("--inlet", [f"{text!r} is not a shape such as 3,224,224"]) from error
