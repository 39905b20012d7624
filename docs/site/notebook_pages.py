"""Pages of the notebooks: their text and code, without outputs."""

from __future__ import annotations

import json
from pathlib import Path


def notebook_page(notebook: Path) -> str:
    """A notebook as Markdown: text as it is, code in blocks, and a link to the file itself.

    Raises:
        ValueError: a cell is neither text nor code.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [shown_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    link = f"[Download this notebook](../files/{notebook.name}) to run it in Jupyter."
    return "\n\n".join([shown[0], link, *shown[1:]]) + "\n"


def shown_cell(kind: str, text: str) -> str:
    """One cell as Markdown."""
    if kind == "markdown":
        return text
    if kind == "code":
        return f"```python\n{text.rstrip()}\n```"
    raise ValueError(f"a notebook of the documentation has text and code, not cells of {kind}")
