"""Pages of the reference: which names each shows; mkdocstrings writes what their docstrings say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import griffe

import nas_theseus
from nas_theseus import blocks, tasks, transforms
from nas_theseus.values.recipe import Recipe, SimilarityOptions

# Of what nas_theseus exports: what a space file is written with. The rest runs things.
SPACE = (
    "SearchSpace",
    "cut",
    "cut_points",
    "Guide",
    "block",
    "choice",
    "maximize",
    "minimize",
    "Boundary",
    "Architecture",
)
GUIDES = (
    "guide.vision.vision_guide",
    "guide.huggingface.huggingface_guide",
    "guide.networks.ready_network",
    "guide.networks.vision_transformer",
    "stitching.stitchable_guide.StitchableGuide",
    "guide.model_family.Family",
)
EXTENDING = {
    "Similarities and schedules": (
        "conversion.similarity.Similarity",
        "conversion.stage.Schedule",
        "conversion.stage.Stage",
    ),
    "Costs": (
        "values.cost_measure.CostMeasure",
        "values.cost_measure.CountedCost",
        "values.cost_measure.BlockMeasuredCost",
        "values.cost_measure.MeasuredCost",
    ),
    "Tasks and metrics": ("tasks.task.Task", "tasks.task.SplitTask", "tasks.metric.Meter"),
    "Samplers, executors and trackers": (
        "services.optuna.sampler.Sampler",
        "searches.execution.Executor",
        "searches.trackers.Tracker",
        "values.tracking.TrackerContext",
    ),
    "What trackers and callbacks are given": (
        "values.outcomes.Evaluation",
        "values.outcomes.Stopped",
        "values.outcomes.Failure",
        "values.outcomes.FrontMember",
    ),
    "Export formats": ("export.format.Format",),
    "Registers": ("values.registers.Register",),
}


def reference_pages() -> dict[str, str]:
    """The pages, by their place in the site."""
    running = [n for n in nas_theseus.__all__ if n not in (*SPACE, "Recipe")]
    measures = sorted(
        path.stem
        for path in (Path(nas_theseus.__path__[0]) / "costs" / "measures").glob("*.py")
        if path.stem != "__init__"
    )
    made = {
        "python": page(
            "Python",
            "What `import nas_theseus` gives. Everything here can be imported from `nas_theseus`"
            " itself; [Recipe](recipe.md) has a page of its own.",
            {"Describe a space": SPACE, "Run": [*running, "api.search_result.SearchResult"]},
        ),
        "blocks": page(
            "Blocks",
            "What may stand for parts of the guide: `from nas_theseus.blocks import …`. Those of "
            "[growing and narrowing](transforms.md) are blocks too.",
            {"": [f"blocks.{name}" for name in blocks.__all__]},
        ),
        "tasks": page(
            "Tasks",
            "Data, loss and metric: `from nas_theseus.tasks import …`.",
            {"": [f"tasks.{name}" for name in tasks.__all__]},
        ),
        "guides": page("Guides", "Networks to begin from, beside `nas_theseus.cut`.", {"": GUIDES}),
        "transforms": page(
            "Growing and narrowing",
            "`from nas_theseus.transforms import …`, as in [the guide](../guides/transforms.md).",
            {"": [f"transforms.{name}" for name in transforms.__all__]},
        ),
        "costs": page(
            "Costs",
            "Each is an objective, a constraint and a limit of `--at` or `--where` by its name.",
            {"": [f"costs.measures.{name}" for name in measures]},
        ),
        "extending": page(
            "Extending",
            "What your own members have to fulfil; [Bring your own](../guides/bring-your-own.md) "
            "has an example of each.",
            EXTENDING,
        ),
        "errors": page("Errors", "All errors that users can mend.", {"": ["errors"]}),
        "recipe": recipe_page(),
    }
    return {f"reference/{name}.md": text for name, text in made.items()}


def page(title: str, intro: str, sections: dict[str, Iterable[str]]) -> str:
    """One page: the names of each section, below nas_theseus."""
    pieces = [f"# {title}", intro]
    for heading, names in sections.items():
        if heading:
            pieces.append(f"## {heading}")
        level = 3 if heading else 2
        pieces += [
            f"::: nas_theseus.{name}\n    options:\n      heading_level: {level}" for name in names
        ]
    return "\n\n".join(pieces) + "\n"


def recipe_page() -> str:
    """The settings of a recipe with their defaults, as tables."""
    return (
        "\n\n".join(
            [
                "# Recipe",
                "How a candidate is made from the guide and trained: `nas_theseus.Recipe(…)` in "
                "a space file, `--set NAME=VALUE` of `nas-theseus convert`. [Converting]"
                "(../guides/converting.md) explains the most important ones.",
                settings_table(Recipe),
                "## Options of a similarity",
                "`Recipe(similarity_options={…})`; without a value, the similarity's own default "
                "holds.",
                settings_table(SimilarityOptions),
                "## Methods",
                "::: nas_theseus.Recipe.from_record\n    options:\n      heading_level: 3",
            ]
        )
        + "\n"
    )


def shown(default: object) -> str:
    """A default as Python writes it; nothing for None and for options that are all left out."""
    return "" if default in (None, SimilarityOptions()) else f"`{default!r}`"


def settings_table(settings: type[Recipe] | type[SimilarityOptions]) -> str:
    """Name, default and meaning of each setting, in the order of the docstring.

    Raises:
        LookupError: the docstring leaves a setting out, or names one that there is not.
    """
    said = {
        entry.name: " ".join(entry.description.split())
        for part in griffe.Docstring(settings.__doc__ or "", parser="google").parse()
        if part.kind is griffe.DocstringSectionKind.attributes
        for entry in part.value
    }
    if other := set(said) ^ set(settings.model_fields):
        raise LookupError(f"docstring and settings of {settings.__name__} differ: {sorted(other)}")
    defaults = {name: settings.model_fields[name].default for name in said}
    rows = [f"| `{name}` | {text} | {shown(defaults[name])} |" for name, text in said.items()]
    return "\n".join(["| setting | what it does | default |", "|---|---|---|", *rows])
