"""Run the Python blocks of the pages, each page as one session; started by test_blocks.py.

Reads the pages' blocks as JSON from standard input, and writes for each page what went wrong, or
null, to the file that its only argument names. With slow blocks among them it searches once before.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from nas_theseus.values.registers import SPACE_PREFIX

# Instead of hours on a cluster: what is replaced in a block before it runs.
SMALLER = {
    "trials=40": 'trials=3, executor="inline"',
    ", parallel=2": "",
    "Recipe(epochs=8": "Recipe(epochs=0.1",
    "epochs=4)": "epochs=0.5)",
}


def run_page(page: str, blocks: list[dict[str, Any]], names: dict[str, Any]) -> str | None:
    """What went wrong on a page, if anything; calls each `space()` that a block defines."""
    # As in a space file, whose name says so, members of one's own are known to this page alone.
    name = f"{SPACE_PREFIX}{Path(page).stem.replace('-', '_')}"
    session: dict[str, Any] = {"__name__": name, **names}
    for block in blocks:
        text = block["text"]
        for long, short in {**SMALLER, **names.get("_replaced", {})}.items():
            text = text.replace(long, short)
        session.pop("space", None)
        try:
            code = compile("\n" * (block["line"] - 1) + text, page, "exec")
            exec(code, session)
            if "space" in session:
                session["space"]()
        except Exception:
            return traceback.format_exc()
    return None


def searched() -> dict[str, str]:
    """Search as the guides do, small; how names of architectures are replaced by real ones."""
    import nas_theseus

    found = nas_theseus.search("my_space.py", trials=3, executor="inline")
    nas_theseus.search("my_space.py", name="fashion_resnet", trials=3, executor="inline")
    member = found.front[0]["architecture"]
    if hasattr(nas_theseus, "register"):  # for the page about MLflow
        nas_theseus.register("my_space", member, alias="champion")
    return {
        "ARCHITECTURE": member,
        "searches/NAME/": "searches/my_space/",
        "3f2a90c1d5e7": member,
    }


def main() -> None:
    """Run all pages that standard input names, in the current folder."""
    pages: dict[str, list[dict[str, Any]]] = json.load(sys.stdin)
    sys.path.insert(0, "")
    reader = importlib.import_module("tests.unit.pages.reader")
    reader.furnish(Path())
    slow = any(block["slow"] for blocks in pages.values() for block in blocks)
    replaced = searched() if slow else {}
    names = reader.names()
    said = {
        page: run_page(page, blocks, {**names[""], **names.get(page, {}), "_replaced": replaced})
        for page, blocks in pages.items()
    }
    Path(sys.argv[1]).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
