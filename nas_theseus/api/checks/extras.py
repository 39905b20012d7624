"""Optional extras of the package: what is installed of each."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version

from nas_theseus.api.checks.packages import required
from nas_theseus.api.doctor import Asked, Finding

_NAME = "nas-theseus"
_FOR = {
    "export": "ONNX files",
    "guides": "networks of timm and Hugging Face",
    "sql": "studies in PostgreSQL",
    "text": "tokenizers and Parquet files",
}


def check(_: Asked) -> Iterator[Finding]:
    """One finding an extra."""
    try:
        extras = metadata(_NAME).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return  # the check of packages says so
    for extra in sorted(extras):
        there: list[str] = []
        lacking: list[str] = []
        for one in required(_NAME, extra):
            try:
                found = version(one.name)
            except PackageNotFoundError:
                lacking.append(one.name)
                continue
            fits = one.specifier.contains(found, prereleases=True)
            (there if fits else lacking).append(f"{one.name} {found}")
        subject = f"extra {extra}"
        if lacking:
            purpose = f"; it is for {_FOR[extra]}" if extra in _FOR else ""
            said = f"without {', '.join(lacking)}{purpose}"
            remedy = f"pip install --upgrade 'nas-theseus[{extra}]'"
            yield Finding(subject, "missing", said, remedy, needed=False)
        else:
            yield Finding(subject, "ok", ", ".join(there), needed=False)


MEMBER = check
