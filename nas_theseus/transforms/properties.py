"""The properties of all methods, as rows and as the table in the documentation."""

from __future__ import annotations

from nas_theseus.transforms.methods import DEEPENINGS, WIDENINGS

COLUMNS = (
    "transform",
    "method",
    "function kept in eval mode",
    "in train mode",
    "with noise",
    "keeps existing parameters",
    "needs noise",
    "activations",
    "new channels",
    "residual connections",
    "gradient at the first step",
)


def properties() -> list[dict[str, str]]:
    """One row for each method with columns `COLUMNS`; tests measure each property.

    Source: R2R, table 1; the documentation of transforms lists the differences.
    """
    rows = []
    for transform, methods in (("widen", WIDENINGS), ("deepen", DEEPENINGS)):
        for method in methods.values():
            kept = method.preserved_eval != "no"
            cells = (
                transform,
                method.name,
                method.preserved_eval,
                method.preserved_train,
                "in expectation" if kept else "no",
                _word(method.keeps_parameters),
                _word(method.needs_noise),
                method.activations,
                method.widths,
                method.residual,
                method.trains_at_once,
            )
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def properties_table() -> str:
    """`properties` as a Markdown table."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(row.values()) for row in properties()]
    return "\n".join(f"| {line} |" for line in lines)


def _word(held: bool) -> str:
    return "yes" if held else "no"
