"""MkDocs hooks: the pages that no file of docs/ holds, and links that lead out of docs/.

`make docs` runs them (mkdocs.yml). Nothing that they make is committed: the reference comes from
docstrings and from the command line itself, the notebooks' pages from the notebooks.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from command_pages import commands_page
from notebook_pages import notebook_page
from reference_pages import reference_pages

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository outside docs/, and the pages of the site that show them.
OUTSIDE = {
    "README.md": "overview.md",
    "cluster/README.md": "guides/cluster.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<file>[^)\s#]+)(?P<rest>[^)]*)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    made = {page: with_links(file, page) for file, page in OUTSIDE.items()}
    made |= reference_pages()
    made["reference/commands.md"] = commands_page()
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
        files.append(
            File.generated(config, f"files/{notebook.name}", content=notebook.read_bytes())
        )
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside docs/ lead to the pages that show them."""
    if page.file.generated_by is not None:
        return markdown
    here = posixpath.join("docs", page.file.src_uri)
    return relinked(markdown, here, page.file.src_uri)


def with_links(file: str, page: str) -> str:
    """The text of a file outside docs/, its links those of the page that shows it."""
    return relinked((ROOT / file).read_text(encoding="utf-8"), file, page)


def relinked(text: str, file: str, page: str) -> str:
    """Markdown of a file of the repository with the links of a page of the site.

    A link to a notebook leads to its page. A link to a file that no page shows becomes text.
    Links in blocks of code stay as they are.

    Args:
        text: Markdown.
        file: where the text is, from the repository's root.
        page: where the site shows it, from docs/.
    """

    def leads(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), found["file"]))
        if target not in OUTSIDE and not target.startswith("docs/"):
            return found["text"] if (ROOT / target).exists() else found[0]
        inside = OUTSIDE.get(target) or target.removeprefix("docs/")
        inside = re.sub(r"^(notebooks/\w+)\.ipynb$", r"\1.md", inside)
        link = posixpath.relpath(inside, posixpath.dirname(page) or ".")
        return f"[{found['text']}]({link}{found['rest']})"

    pieces = _CODE.split(text)
    return "".join(p if p.startswith("```") else _LINK.sub(leads, p) for p in pieces)
