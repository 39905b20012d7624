"""The model card of an exported language model: what it is, its numbers, and how to load it."""

from __future__ import annotations

from pathlib import Path

from nas_theseus.export.member import Member
from nas_theseus.values.version import VERSION

_NO_TOKENIZER = """
> **Warning.** No tokenizer was found for this model, so this folder has none. Take that of the
> guide, or export again with `--tokenizer FOLDER`.
"""


def model_card(member: Member, *, coded: bool, tokenizer: bool, dtype: str, cached: bool) -> str:
    """The text of README.md.

    Args:
        coded: whether the folder has a modelling file of its own.
        tokenizer: whether the folder has a tokenizer.
        dtype: of the weights.
        cached: whether the model can go on token by token.
    """
    architecture = member.evaluation.architecture
    trust = ", trust_remote_code=True" if coded else ""
    kind = (
        "Its layers differ, so that the folder has a modelling file of its own,\n"
        "`modeling_theseus.py`; read it before you trust it."
        if coded
        else "It needs no code of its own."
    )
    slow = (
        ""
        if cached
        else (
            "\nSome of its layers cannot go on token by token: every new token runs the whole text "
            "again (`use_cache=False`).\n"
        )
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [nas-theseus]
---

# {_guide_name(member)}, converted to {architecture.id}

A language model that nas-theseus {VERSION} converted from the guide {_guide_name(member)}
block by block. {kind}
Weights are in {dtype}. The licence of the guide's weights applies.
{"" if tokenizer else _NO_TOKENIZER}
## Load

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
print(tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"))[0]))
```
{slow}
## Numbers

Measured on the task {member.space.task.name!r}. Costs are those of one input of
{member.space.task.inlet.shape[0]} tokens.

| | |
|---|---:|
{_rows(member)}

## Blocks

| parts of the guide | block | parameters |
|---|---|---:|
{_blocks(member)}

The outputs of this folder were compared with those of the network that the search found, on
validation texts, before it was saved.
"""


def _guide_name(member: Member) -> str:
    pretrained = member.space.guide.pretrained
    if pretrained is None:
        return "its guide"
    source: Path | None = pretrained.source
    if source is None:
        return str(pretrained.config.model_type)
    return source.stem if source.is_file() else source.name


def _rows(member: Member) -> str:
    return "\n".join(
        f"| {name} | {value:,.0f} |" if float(value).is_integer() else f"| {name} | {value:.6g} |"
        for name, value in member.evaluation.values().items()
    )


def _blocks(member: Member) -> str:
    names, network = member.space.guide.names, member.network
    rows = []
    for choice, block in zip(network.architecture.choices, network.blocks, strict=True):
        parts = ", ".join(names[choice.span.start : choice.span.stop])
        count = sum(parameter.numel() for parameter in block.parameters())
        rows.append(f"| {parts} | {choice} | {count:,} |")
    return "\n".join(rows)
