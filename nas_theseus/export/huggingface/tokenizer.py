"""The tokenizer that goes along with an exported language model."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

from nas_theseus.errors import ExportError
from nas_theseus.export.member import Member

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")


def write_tokenizer(member: Member, folder: Path, given: Path | None) -> bool:
    """Put the tokenizer's files into an exported folder.

    It is the given one, or that of the guide's folder or GGUF file, or that of the task.

    Returns:
        Whether there is one.

    Raises:
        ExportError: the given one is none, or the tokenizer has more tokens than the network.
    """
    source = _source(member, given)
    if source is None:
        return False
    transformers = importlib.import_module("transformers")
    if source.suffix == ".gguf":
        read = transformers.AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
        read.save_pretrained(str(folder))
    else:
        _copy(source, folder)
    _refuse_larger(transformers, source, folder, member.space.task.outputs.width)
    return True


def _source(member: Member, given: Path | None) -> Path | None:
    if given is not None:
        path = given.expanduser()
        if not _has_tokenizer(path):
            raise ExportError(
                f"{path} holds no tokenizer; give a folder with one of {', '.join(_VOCABULARIES)}, "
                "a tokenizer.json, or a GGUF file"
            )
        return path
    pretrained = member.space.guide.pretrained
    places = [None if pretrained is None else pretrained.source]
    places.append(getattr(member.space.task, "tokenizer", None))
    return next((Path(one) for one in places if one and _has_tokenizer(Path(one))), None)


def _has_tokenizer(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".json", ".gguf")
    return any((path / name).is_file() for name in _VOCABULARIES)


def _copy(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files; a file alone is a tokenizer.json, whatever it is called."""
    if source.is_file() and source.name != "tokenizer.json":
        shutil.copyfile(source, folder / "tokenizer.json")
    else:
        home = source.parent if source.is_file() else source
        for name in _FILES:
            if (home / name).is_file():
                shutil.copyfile(home / name, folder / name)
    if not (folder / "tokenizer_config.json").is_file():
        said = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=1))


def _refuse_larger(transformers: Any, source: Path, folder: Path, vocabulary: int) -> None:
    try:
        # Its own code, if it has any, is not run.
        size = len(transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
    except Exception as error:  # of many kinds, for files that are not what they seem
        said = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"the tokenizer of {source} cannot be read: {type(error).__name__}: {said}; give "
            "another with --tokenizer FOLDER"
        ) from error
    if size > vocabulary:
        raise ExportError(
            f"the tokenizer of {source} has {size:,} tokens, the network {vocabulary:,}: it is "
            "another model's; give the guide's own with --tokenizer FOLDER"
        )
