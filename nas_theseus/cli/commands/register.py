"""``nas-theseus register``: a found network as a model of MLflow, with an alias."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption, TrustOption


def command(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    architecture: Annotated[
        str | None,
        typer.Argument(help="ID of an architecture that it evaluated, or its beginning."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Instead of an ID: the best network of the front with these conditions, such as "
            "'macs < 2e6'."
        ),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Alias of the new version, such as champion.")
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="The registered model. Default: the search's name.")
    ] = None,
    move: Annotated[
        bool, typer.Option("--move", help="Take the alias from the version that has it.")
    ] = False,
    trust_code: TrustOption = False,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Log a network of a search as an MLflow model, and register it.

    The model answers inputs with the network's outputs: load it with mlflow.pyfunc.load_model, or
    serve it with 'mlflow models serve'. It holds a program of torch.export, which needs neither
    nas-theseus nor the search's folder; a network that cannot be traced is kept with its code.
    """
    from nas_theseus.api.registering import register

    done = register(
        name,
        architecture,
        where=where,
        alias=alias,
        model_name=model_name,
        move=move,
        storage=storage,
        trust_code=trust_code,
    )
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    say(done.state)
    if done.kind is None:
        say(f"architecture {done.architecture} was registered before")
    elif done.reason:
        say(f"the model holds the network's code and needs nas-theseus: {done.reason}")
    say(f"architecture {done.architecture} is version {done.version} of model {done.model}")
    say(f"serve it: mlflow models serve --env-manager local --host 127.0.0.1 -m {done.uri}")
