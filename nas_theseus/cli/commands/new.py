"""``nas-theseus new``: a first space file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.values.registers import SOURCES, TEMPLATES

FileArgument = Annotated[Path, typer.Argument(help="The space file to write, such as my_space.py.")]
VisionOption = Annotated[
    bool, typer.Option("--vision", help="A residual network on Fashion-MNIST.")
]
TextOption = Annotated[bool, typer.Option("--text", help="A small transformer over characters.")]
LanguageModelOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A pretrained language model: its folder or GGUF file."),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE:NAME",
        help=f"A pretrained vision network of {SOURCES.one_of}: torchvision:resnet18.",
    ),
]
TemplateOption = Annotated[
    str | None, typer.Option(help=f"A template by name: {TEMPLATES.one_of}. Default: digits.")
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="With --from: pictures, without labels, at any depth."),
]
TextsOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="With --text or --language-model: text files."),
]


def command(
    file: FileArgument,
    vision: VisionOption = False,
    text: TextOption = False,
    language_model: LanguageModelOption = None,
    network: FromOption = None,
    template: TemplateOption = None,
    images: ImagesOption = None,
    texts: TextsOption = None,
) -> None:
    """Write a first space file that runs as it is, with comments, and check it at once.

    Without options it searches on scikit-learn's digits, in a minute or two. An existing file is
    never overwritten.
    """
    from nas_theseus.api.new import new_space
    from nas_theseus.cli.commands.check import command as check
    from nas_theseus.errors import SpaceError, TheseusError

    asked = {
        "vision": vision,
        "text": text,
        "language-model": language_model is not None,
        "pretrained": network is not None,
    }
    chosen = [kind for kind, wanted in asked.items() if wanted]
    chosen += [] if template is None else [template]
    if len(chosen) > 1:
        raise SpaceError(
            f"new {file}",
            ["--vision, --text, --language-model, --from and --template exclude each other"],
        )
    given = {"MODEL": language_model or network, "IMAGES": images, "TEXTS": texts}
    constants = {name: value for name, value in given.items() if value is not None}
    written = new_space(file, chosen[0] if chosen else "digits", constants)
    console = Console()
    console.print(f"wrote {written}", highlight=False, markup=False, soft_wrap=True)
    try:
        check(written)
    except TheseusError as error:
        raise SpaceError(
            f"{written} is written and kept, but cannot be searched yet. Mend this, then run "
            f"'nas-theseus check {written}'",
            getattr(error, "mistakes", [str(error)]),
        ) from error
    steps = f"next: nas-theseus search {written} --trials 12, then nas-theseus front {written.stem}"
    console.print(steps, highlight=False, markup=False, soft_wrap=True)
