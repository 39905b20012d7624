"""Check a search space before any training, and report all mistakes together."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from nas_theseus.blocks.causality import reads_ahead
from nas_theseus.blocks.family import last_map
from nas_theseus.guide.chain import Guide, example_input
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.tasks import Task
from nas_theseus.tasks.contract import declared_mistakes, used_mistakes
from nas_theseus.values.architecture import BlockChoice, Boundary
from nas_theseus.values.conditions import parse_constraint


def mistakes_in(space: SearchSpace) -> list[str]:
    """All mistakes that can be found before any training; empty if there are none.

    Reads a few examples of each split of the data.
    """
    tasks = {"task": space.task}
    if space.guide_task is not None:
        tasks["guide_task"] = space.guide_task
    scored = space.recipe.divergence_examples > 0 and not space.recipe.is_control
    if declared := declared_mistakes(tasks):
        return declared  # a space whose task has no shape or metric cannot be checked further
    return [
        *used_mistakes(tasks, taught=space.recipe.taught, scored=scored),
        *_declaration_mistakes(space),
        *_guide_reads_ahead(space),
        *_block_mistakes(space),
        *_goal_mistakes(space),
    ]


def guide_mistakes(guide: Guide, task: Task) -> Iterator[str]:
    """Mistakes in the shapes between a guide and its task."""
    if guide.boundaries[0] != task.inlet:
        yield (
            f"guide: takes inputs {guide.boundaries[0]}, but those of task {task.name!r} are "
            f"{task.inlet}; {_inlet_remedy(guide, task)}"
        )
    if guide.boundaries[-1].shape != task.outputs.shape:
        yield (
            f"guide: its outputs are {guide.boundaries[-1]}, but task {task.name!r} needs "
            f"{task.outputs}; {_remedy(guide, task)}"
        )


def _inlet_remedy(guide: Guide, task: Task) -> str:
    """What to do where the guide's inputs are not the task's."""
    if guide.preprocessing is None:
        return f"cut the guide with inlet={task.inlet.shape}"
    return (
        "give the task guide=guide, so that its pictures are as the guide expects them, or "
        "vision_guide(…, size=) the task's size"
    )


def _declaration_mistakes(space: SearchSpace) -> Iterator[str]:
    names = [family.name for family in space.blocks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"blocks: two blocks are named {name!r}; rename one of them"
    if not names:
        yield "blocks: empty; a space needs at least one block, such as Keep()"
    if space.max_span < 1:
        yield f"max_span: must be at least 1, got {space.max_span}"
    if not space.widths:
        yield "widths: empty; (1.0,) keeps the guide's widths"
    parts = set(space.guide.names)
    known = f"; the guide's parts are {', '.join(space.guide.names)}"
    for name in space.keep:
        if name not in parts:
            yield f"keep: no part is named {name!r}{known}"
    frozen = space.recipe.freeze_kept
    for pattern in frozen if isinstance(frozen, tuple) else ():
        if not fnmatch.filter(space.guide.names, pattern):
            yield f"recipe: freeze_kept: no part is named {pattern!r}{known}"
    if space.keep and not any(family.keeps for family in space.blocks):
        yield "keep: needs Keep() among the blocks"
    for family in space.blocks:
        for name in family.parts:
            if name not in parts:
                yield f"block {family.name!r}: no part is named {name!r}{known}"
    yield from guide_mistakes(space.guide, space.task)
    learnt = space.learnt_from
    if (learnt.inlet, learnt.outputs) != (space.task.inlet, space.task.outputs):
        yield (
            f"guide_task: {learnt.name!r} maps {learnt.inlet} to {learnt.outputs}, but task "
            f"{space.task.name!r} maps {space.task.inlet} to {space.task.outputs}; they must agree"
        )


def _remedy(guide: Guide, task: Task) -> str:
    """What to do where the guide's outputs are not the task's."""
    found, wanted = guide.boundaries[-1], task.outputs
    if not _predicts_tokens(task) or found.kind != "tokens" or found.shape[0] != wanted.shape[0]:
        if guide.preprocessing is None:
            return "give the guide a head for the task"
        return (
            "give the guide a head for the task, or learn its outputs instead of labels: "
            "image_folder(…, labels=False, guide=guide)"
        )
    if found.width > wanted.width:
        return (
            f"these are more than the task's {wanted.width:,} tokens: give the guide's own "
            f"tokenizer, or vocabulary={found.width} if the guide only rounds its vocabulary up"
        )
    return (
        f"these are fewer than the task's {wanted.width:,} tokens: the tokenizer is another "
        "model's; give the guide's own"
    )


def _predicts_tokens(task: Task) -> bool:
    """Whether the task is to predict each next token, so that nothing may read later tokens."""
    return task.inlet.kind == "ids" and task.outputs.kind == "tokens"


def _guide_reads_ahead(space: SearchSpace) -> Iterator[str]:
    boundaries = space.guide.boundaries
    vocabulary = space.task.outputs.width
    if not _predicts_tokens(space.task) or not _token_wise(boundaries[0], boundaries[-1]):
        return
    try:
        if not reads_ahead(space.guide, boundaries[0], vocabulary):
            return
        reading = [
            name
            for name, part, (inlet, outlet) in zip(
                space.guide.names, space.guide.parts, pairwise(boundaries), strict=True
            )
            if _token_wise(inlet, outlet) and reads_ahead(part, inlet, vocabulary)
        ]
    except Exception as error:  # the user's network may raise anything
        yield (
            f"guide: cannot be run on token ids 0 to {vocabulary - 1}: "
            f"{type(error).__name__}: {error}"
        )
        return
    where = f", in {', '.join(map(repr, reading))}" if reading else ""
    yield (
        f"guide: reads later tokens{where}: its output at a token changes with the tokens after "
        "it, which it has to predict; give its attention a causal mask"
    )


def _block_mistakes(space: SearchSpace) -> Iterator[str]:
    if space.max_span < 1:
        return  # already reported: no block fits anywhere
    stuck = max((span.stop for span, _ in space.fitting), default=0)
    if stuck < len(space.guide):
        name = space.guide.names[stuck]
        refusals = "; ".join(
            space.block_refusal(family, space.span(stuck, stuck + 1))
            or f"block {family.name!r} is not allowed on part {name!r}"
            for family in space.blocks
            if not family.keeps
        )
        yield f"blocks: none can replace part {name!r} (add Keep()): {refusals}"
    used = {name for fits in space.fitting.values() for name in fits}
    for family in space.blocks:
        if family.name not in used and set(family.parts) <= set(space.guide.names):
            reasons = (space.block_refusal(family, span) for span in space.spans())
            reason = next(filter(None, reasons), "keep or max_span leaves it no span")
            yield f"block {family.name!r} cannot replace any span; first reason: {reason}"
    tested: set[tuple[object, ...]] = set()
    wrong: dict[str, list[str]] = {}
    for span, share in space.fitting:
        inlet = space.boundary(span.start, share)
        for choice in space.choices(span, share):
            outlet = space.boundary(span.stop, choice.width_share)
            family = space.families[choice.block]
            where = space.part_kind(span.start) if family.of_part else None
            case = (where, choice.block, choice.hyperparameters, inlet, outlet)
            if family.keeps or case in tested:
                continue
            tested.add(case)
            mistake = _build_mistake(space, choice, share)
            if mistake:
                found = f"block {choice} for {span.text}: {mistake}"
                wrong.setdefault(choice.block, []).append(found)
    # One mistake in a custom block affects all its choices.
    for first, *others in wrong.values():
        yield f"{first} (and {len(others)} more of its choices)" if others else first


def _build_mistake(space: SearchSpace, choice: BlockChoice, inlet_share: float) -> str | None:
    inlet = space.boundary(choice.span.start, inlet_share)
    outlet = space.boundary(choice.span.stop, choice.width_share)
    try:
        with torch.random.fork_rng(devices=[]):
            module = space.build(choice, inlet_share).eval()
        inputs = example_input(module, inlet, batch=2)
        with torch.no_grad():
            found = module(inputs)
            # Before the training mode, in which batch norms change.
            behind_last = _follows_last(module, inputs, found)
            if mode := _mode_not_finite(module, inputs, found):
                return f"gives NaN or infinite values in {mode} mode; correct its forward()"
        fits = isinstance(found, Tensor) and tuple(found.shape[1:]) == outlet.shape
        ahead = (
            fits
            and _predicts_tokens(space.task)
            and _token_wise(inlet, outlet)
            and reads_ahead(module, inlet, space.task.outputs.width)
        )
    except Exception as error:  # a custom block may raise anything; report it to its author
        return f"cannot be built and run: {type(error).__name__}: {error}"
    if not fits:
        shape = tuple(found.shape[1:]) if isinstance(found, Tensor) else type(found)
        return f"returns {shape}, but its outlet is {outlet}"
    if behind_last:
        return (
            "its layer `last` is not the last operation, so a stitch cannot be folded into it; "
            "make `last` the end (a skip may be added to it), or rename the layer"
        )
    if ahead:
        return (
            "reads later tokens: its output at a token changes with the tokens after it, which the "
            "network has to predict; use causal=True, or a block that is always causal"
        )
    return None


def _mode_not_finite(module: nn.Module, inputs: Tensor, found: object) -> str | None:
    """The mode in which a block's outputs are not all finite.

    Args:
        module: in evaluation mode.
        found: its outputs for the inputs.
    """
    if not isinstance(found, Tensor):
        return None
    if not found.isfinite().all():
        return "evaluation"
    with torch.random.fork_rng(devices=[]):  # dropout draws random numbers
        # Of a copy: training mode changes the statistics of norms.
        trained = copy.deepcopy(module).train()(inputs)
    return None if trained.isfinite().all() else "training"


def _goal_mistakes(space: SearchSpace) -> Iterator[str]:
    known = {space.metric, *space.known_costs}
    names = [goal.name for goal in space.goals]
    for goal in space.goals:
        if goal.name not in known:
            yield f"objectives: unknown {goal.name!r}; known: {', '.join(sorted(known))}"
        elif goal.name in space.measures:
            wanted = space.measures[goal.name].direction
            if goal.direction != wanted:
                yield (
                    f"objectives: {goal.direction}({goal.name!r}) contradicts the cost's own "
                    f"direction; use {wanted}({goal.name!r})"
                )
    if len(set(names)) != len(names):
        yield "objectives: one objective is listed twice"
    if not set(names) - set(space.known_costs):
        yield f"objectives: one of them must be a quality, such as {space.metric!r}"
    for text in space.constraints:
        try:
            limit = parse_constraint(text)
        except ValueError as error:
            yield f"constraints: {error}"
            continue
        if limit.name not in known:
            yield (
                f"constraints: unknown {limit.name!r} in {text!r}; known: "
                f"{', '.join(sorted(known))}"
            )


def _token_wise(inlet: Boundary, outlet: Boundary) -> bool:
    """Whether both sides have the same number of tokens, so that their positions correspond."""
    kinds = inlet.kind in ("ids", "tokens") and outlet.kind == "tokens"
    return kinds and inlet.shape[0] == outlet.shape[0]


def _follows_last(module: nn.Module, inputs: Tensor, found: Tensor) -> bool:
    """Whether a block's output is more than that of `last` plus terms independent of it."""
    last = last_map(module)
    if last is None or not isinstance(found, Tensor):
        return False
    hook = last.register_forward_hook(lambda _module, _inputs, output: output + 1)
    try:
        shift = module(inputs) - found
    finally:
        hook.remove()
    return not torch.allclose(shift, torch.ones_like(shift), atol=1e-3)
