"""The search space: guide, task, blocks, objectives and constraints."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.blocks import BlockFamily
from nas_theseus.blocks.family import Narrowing
from nas_theseus.errors import PairingError, SpaceError
from nas_theseus.guide.chain import Guide, example_input
from nas_theseus.guide.hidden_units import style_of
from nas_theseus.space import callbacks
from nas_theseus.space.made_of_parts import ChannelsKept, MadeOfParts
from nas_theseus.space.objectives import minimize
from nas_theseus.tasks import Task
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span, span_of
from nas_theseus.values.conditions import parse_constraint
from nas_theseus.values.cost_measure import BlockMeasuredCost
from nas_theseus.values.fingerprint import fingerprint
from nas_theseus.values.goals import Constraint, Direction, Objective
from nas_theseus.values.ids import short_hash
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.registers import COSTS, active_space
from nas_theseus.values.style import PLAIN, Style

_Fitting = dict[tuple[Span, float], dict[str, tuple[float, ...]]]
_Refusals = dict[tuple[str, Span], dict[tuple[float, float], str]]

# Counted in every space, even if no objective names them.
ALWAYS_COUNTED = ("macs", "params")


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """All architectures that a search can propose, and the criteria to compare them.

    Attributes:
        guide: the network that candidates are converted from, cut into parts.
        task: data, loss and metric.
        blocks: families of blocks that can replace a span of guide parts, preferred first.
        max_span: largest number of guide parts that one block can replace.
        widths: widths that a block's outlet can have, as shares of the guide's, unless a kept part
            follows. With a block such as ``NarrowStream()`` or ``FewerChannels()``, narrower
            boundaries have channels of the guide, the same ones in all parts that add to each
            other, and blocks made of parts stand between them too. Default: the guide's own widths.
        guide_training: recipe that trains the guide once before the search (only its task-training
            settings are used). Default: none; the guide is used with the weights it has.
        guide_task: task that the guide is trained on, for example with more data than candidates
            are trained on. Default: `task`.
        recipe: recipe for the conversion and training of every candidate.
        objectives: qualities and costs, made by ``maximize`` and ``minimize``. A cost is a name
            (each file of `costs/measures` is one) or an object of your own (`values.cost_measure`).
            Costs that are not additive are measured on each finished network on the machine of the
            trial. Default: the task's validation metric, and multiply-adds.
        constraints: hard limits on metrics and costs, such as ``"macs <= 2e6"``. A cost of your
            own is available here if an objective names it or ``COSTS.add(name, cost)`` added it.
        beat_chance: whether networks that are no better than chance (`tasks.floor`) stay off the
            front. Has no effect where a constraint on the task's metric sets another floor.
        keep: names of guide parts that are always kept.
        measures: the costs that this space counts and measures, by name.
        known_costs: names of all costs that this space can name.
        own_costs: names of those that are not of the package.
        floor: the limit of chance that this search began with; None if it began without one.
        origin: package of the space file, whose own costs this space knows. Default: the space
            that is being loaded.
        callbacks: called with every outcome of a search: functions of one argument, or objects
            with any of the methods begin, outcome, front, results and end. An error in a callback
            is reported and does not stop the search.
    """

    guide: Guide
    task: Task
    blocks: Sequence[BlockFamily]
    max_span: int = 1
    widths: Sequence[float] = (1.0,)
    guide_training: Recipe | None = None
    guide_task: Task | None = None
    recipe: Recipe = field(default_factory=Recipe)
    objectives: Sequence[Objective] = ()
    constraints: Sequence[str] = ()
    keep: Sequence[str] = ()
    callbacks: Sequence[object] = ()
    beat_chance: bool = True
    floor: Constraint | None = field(default=None, kw_only=True, repr=False)
    origin: str | None = field(default_factory=active_space, kw_only=True, repr=False)
    measures: Mapping[str, Any] = field(init=False, repr=False)
    known_costs: tuple[str, ...] = field(init=False, repr=False)
    own_costs: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse settings of a wrong type; the module `mistakes` checks everything else.

        The costs are looked up now: a space file read later may bring another of the same name.

        Raises:
            SpaceError: a setting has a wrong type; the message lists all of them.
        """
        if mistakes := [*_wrong_values(self), *_wrong_sequences(self)]:
            raise SpaceError("SearchSpace", mistakes)
        named = {*ALWAYS_COUNTED, *(goal.name for goal in self.objectives)}
        named |= {limit.name for limit in _readable(self.constraints)}
        own = COSTS.own_of(self.origin)
        known = tuple(dict.fromkeys([*COSTS.shipped, *own]))
        measures = {n: own[n] if n in own else COSTS[n] for n in known if n in named}
        object.__setattr__(self, "measures", measures)
        object.__setattr__(self, "known_costs", known)
        object.__setattr__(self, "own_costs", frozenset(own) - set(COSTS.shipped))

    @property
    def learnt_from(self) -> Task:
        """The task that the guide is trained on."""
        return self.guide_task or self.task

    @property
    def metric(self) -> str:
        """Name of the task's validation metric."""
        return f"val_{self.task.metric}"

    @cached_property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives, or the default ones if none were given."""
        direction: Direction = self.task.direction
        return tuple(self.objectives) or (Objective(self.metric, direction), minimize("macs"))

    @cached_property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, parsed, and the limit of chance if this search has one."""
        floor = () if self.floor is None else (self.floor,)
        return (*(parse_constraint(text) for text in self.constraints), *floor)

    @cached_property
    def additive(self) -> tuple[str, ...]:
        """Costs that are sums over blocks, known before the first trial."""
        return tuple(name for name, measure in self.measures.items() if measure.additive)

    @cached_property
    def measured_by_block(self) -> tuple[str, ...]:
        """Additive costs that are measured on each block before the first trial."""
        return tuple(n for n in self.additive if isinstance(self.measures[n], BlockMeasuredCost))

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """Costs that are measured on each finished network."""
        return tuple(name for name, measure in self.measures.items() if not measure.additive)

    @cached_property
    def families(self) -> dict[str, BlockFamily]:
        """The blocks by name; those over tokens have the guide's norms and hidden units."""
        style = PLAIN
        if any(family.styled for family in self.blocks):
            style = self._guide_style()
        return {family.name: replace(family, style=style) for family in self.blocks}

    def _guide_style(self) -> Style:
        if not any(boundary.kind == "tokens" for boundary in self.guide.boundaries):
            return PLAIN
        return style_of(self.guide.parts, example_input(self.guide, self.guide.boundaries[0]))

    def spans(self) -> Iterator[Span]:
        """Every span that a block could replace, by start, shortest first."""
        for start in range(len(self.guide)):
            for stop in range(start + 1, min(start + self.max_span, len(self.guide)) + 1):
                yield self.span(start, stop)

    def span(self, start: int, stop: int) -> Span:
        """The span of the guide's parts [start, stop), with their names."""
        return span_of(start, stop, self.guide.names)

    def boundary(self, index: int, share: float = 1.0) -> Boundary:
        """The guide's boundary `index` (0 is the input), its width times `share`."""
        return self.guide.boundaries[index].scaled(share)

    def boundaries(self, architecture: Architecture) -> tuple[Boundary, ...]:
        """The boundaries of an architecture: its input, then the outlet of every block."""
        outlets = (self.boundary(c.span.stop, c.width_share) for c in architecture.choices)
        return (self.guide.boundaries[0], *outlets)

    def shares(self, index: int) -> tuple[float, ...]:
        """Width shares that a block's outlet can have at boundary `index`.

        Only the guide's own at the end and before a part that is always kept. The guide's own is
        added to `widths` before a part that can be kept or transformed.
        """
        if index in (0, len(self.guide)) or self.guide.names[index] in self.keep:
            return (1.0,)
        name = self.guide.names[index]
        kept = any(f.of_part and (not f.parts or name in f.parts) for f in self.blocks)
        shares = (*self.widths, 1.0) if kept else self.widths
        # Shares that round to the same width count as one.
        widths = [self.boundary(index, share).width for share in shares]
        return tuple(share for i, share in enumerate(shares) if widths[i] not in widths[:i])

    @cached_property
    def fitting(self) -> _Fitting:
        """Blocks that can replace each span, by the width share of the span's inlet.

        For each span and each reachable inlet share: names of the blocks, in declared order, and
        the width shares that each one's outlet can have. Spans that no block can replace are left
        out.
        """
        return self._tried[0]

    @cached_property
    def refusals(self) -> _Refusals:
        """Why blocks do not fit: by block and span, then by the width shares of inlet and outlet.

        Only of spans and widths that can be reached, and of blocks that are allowed there.
        """
        return self._tried[1]

    @cached_property
    def _tried(self) -> tuple[_Fitting, _Refusals]:
        refusals: _Refusals = {}
        found: _Fitting = {}
        reached = {0: {1.0: None}}
        for span in self.spans():
            for share in reached.get(span.start, {}):
                fits = {
                    family.name: outlets
                    for family in self.blocks
                    if (outlets := self._outlet_shares(family, span, share, refusals))
                }
                if fits:
                    found[span, share] = fits
                for outlets in fits.values():
                    reached.setdefault(span.stop, {}).update(dict.fromkeys(outlets))
        return found, refusals

    def _outlet_shares(
        self, family: BlockFamily, span: Span, share: float, refusals: _Refusals
    ) -> tuple[float, ...]:
        names = self.guide.names[span.start : span.stop]
        allowed = not family.parts or set(names) <= set(family.parts)
        if not allowed or (set(names) & set(self.keep) and not family.keeps):
            return ()
        outlets = self.shares(span.stop) if self._widens(family) else (1.0,)
        refused = {o: self.block_refusal(family, span, share, o) for o in outlets}
        for outlet, reason in refused.items():
            if reason is not None:
                refusals.setdefault((family.name, span), {})[share, outlet] = reason
        return tuple(outlet for outlet, reason in refused.items() if reason is None)

    def block_refusal(
        self, family: BlockFamily, span: Span, inlet_share: float = 1.0, outlet_share: float = 1.0
    ) -> str | None:
        """Why a block cannot replace a span between two widths; None if it can."""
        inlet = self.boundary(span.start, inlet_share)
        outlet = self.boundary(span.stop, outlet_share)
        own = (inlet, outlet) == (self.boundary(span.start), self.boundary(span.stop))
        if not own and not family.at_other_widths and not family.of_part:
            return f"block {family.name!r} keeps the guide's widths"
        if not family.of_part:
            return family.refusal(inlet, outlet)
        if len(span) > 1 or not (own or self._widens(family)):
            return (
                f"block {family.name!r} is made from a guide part: it replaces one part and keeps "
                "the guide's widths"
            )
        if own and not family.at_own_widths:
            return (
                f"block {family.name!r} needs a boundary of another width: between the guide's own "
                "it is the guide's part, which Keep() offers. Add shares below 1 to widths"
            )
        if family.keeps:
            return None
        case = (family.name, self.part_kind(span.start), inlet, outlet)
        if case not in self._refusals:
            self._refusals[case] = self._part_refusal(family, span, inlet, outlet)
        reason = self._refusals[case]
        return None if reason is None else f"part {self.guide.names[span.start]!r}: {reason}"

    def _widens(self, family: BlockFamily) -> bool:
        """Whether a block may stand at other widths than the guide's."""
        if not family.of_part:
            return family.at_other_widths
        return self._narrowing is not None and family.at_other_widths and not family.preserves

    @cached_property
    def _narrowing(self) -> Narrowing | None:
        """What takes channels of a part's boundaries away; None if no block of the space can."""
        return next((f.narrowing for f in self.blocks if f.narrowing and f.at_other_widths), None)

    @cached_property
    def selects_channels(self) -> bool:
        """Whether narrower boundaries have channels of the guide instead of another basis."""
        return self._narrowing is not None and any(share < 1 for share in self.widths)

    def _part_refusal(
        self, family: BlockFamily, span: Span, inlet: Boundary, outlet: Boundary
    ) -> str | None:
        """Why a block cannot be made from a part; None if all its variants can."""
        try:
            with torch.random.fork_rng(devices=[]):
                # Not every variant fits every part: a part may have nothing to widen.
                for variant in family.variants():
                    choice = BlockChoice(span, family.name, variant)
                    self.made_of_parts.build(family, choice, (inlet, outlet))
        except PairingError as error:
            # Said of all parts of this kind.
            return str(error).removeprefix(f"part {self.guide.names[span.start]!r} ")
        return None

    @cached_property
    def _refusals(self) -> dict[tuple[str, str, Boundary, Boundary], str | None]:
        return {}

    def part_kind(self, index: int) -> str:
        """Hash that is equal for guide parts of the same structure, sizes and inlet.

        Layers of a transformer differ in their weights alone. What depends on structure alone,
        such as which blocks fit and what they cost, is found once for all of them.
        """
        return self._part_kinds[index]

    @cached_property
    def _part_kinds(self) -> tuple[str, ...]:
        return tuple(
            short_hash(
                [
                    fingerprint(part),
                    [[name, *tensor.shape] for name, tensor in part.state_dict().items()],
                    str(inlet),
                ]
            )
            for part, inlet in zip(self.guide.parts, self.guide.boundaries[:-1], strict=True)
        )

    def build(
        self,
        choice: BlockChoice,
        inlet_share: float = 1.0,
        *,
        part: nn.Module | None = None,
        features: Tensor | None = None,
        channels: ChannelsKept | None = None,
    ) -> nn.Module:
        """Build a new block for one choice, initialised from torch's global generator.

        Args:
            part: copy of the guide part for blocks that are made from one. Default: made here.
            features: the guide's activations at the part's inlet, for blocks that choose what to
                keep of the part by them. Without, only shapes and parameters that do not depend on
                activations are final.
            channels: the guide's channels that a narrower boundary keeps, by boundary and width.
                Default: the first ones, which give the same shapes.

        Raises:
            PairingError: the block cannot replace its span, or keeps the guide's part.
        """
        family = self.families[choice.block]
        inlet = self.boundary(choice.span.start, inlet_share)
        outlet = self.boundary(choice.span.stop, choice.width_share)
        if family.keeps or not family.of_part:
            return family.build(inlet, outlet, choice.kwargs)
        return self.made_of_parts.build(
            family, choice, (inlet, outlet), part=part, features=features, channels=channels
        )

    @cached_property
    def made_of_parts(self) -> MadeOfParts:
        """Makes blocks of the guide's parts between any two boundaries."""
        return MadeOfParts(self.guide, self._narrowing)

    def choices(self, span: Span, inlet_share: float = 1.0) -> Iterator[BlockChoice]:
        """Every block, hyperparameter combination and outlet width for one span."""
        for name, shares in self.fitting.get((span, inlet_share), {}).items():
            for share in shares:
                for variant in self.families[name].variants():
                    yield BlockChoice(span, name, variant, share)

    def count(self) -> int:
        """Number of different architectures in the space, ignoring constraints."""
        ways = {(0, 1.0): 1}
        for (span, share), fits in self.fitting.items():
            here = ways.get((span.start, share), 0)
            for name, outlets in fits.items():
                variants = sum(1 for _ in self.families[name].variants())
                for outlet in outlets:
                    state = (span.stop, outlet)
                    ways[state] = ways.get(state, 0) + here * variants
        return ways.get((len(self.guide), 1.0), 0)

    def guide_architecture(self) -> Architecture | None:
        """The architecture that keeps every part; None if it is not in this space."""
        keep = next((family.name for family in self.blocks if family.keeps), None)
        if keep is None:
            return None
        guide = Architecture(
            tuple(BlockChoice(self.span(i, i + 1), keep) for i in range(len(self.guide)))
        )
        return guide if self.refusal(guide) is None else None

    def refusal(self, architecture: Architecture) -> str | None:
        """Why an architecture is not in this space; None if it is."""
        if architecture.stop != len(self.guide):
            return f"covers {architecture.stop} parts, but the guide has {len(self.guide)}"
        share = 1.0
        for choice in architecture.choices:
            if choice not in set(self.choices(choice.span, share)):
                behind = "" if share == 1 else f" with an inlet of {share:g} the guide's width"
                span = self.span(choice.span.start, choice.span.stop)
                return f"block {choice} cannot replace {span.text}{behind} in this space"
            share = choice.width_share
        return None


def _readable(constraints: Sequence[str]) -> Iterator[Constraint]:
    """The constraints that can be parsed; the others are reported by `mistakes`."""
    for text in constraints:
        with suppress(ValueError):
            yield parse_constraint(text)


def _wrong_values(space: SearchSpace) -> Iterator[str]:
    kinds: dict[str, tuple[type | types.UnionType, str]] = {
        "guide": (Guide, "cut(model, at=[…], inlet=…) or Guide([(name, module), …], inlet)"),
        "max_span": (int, "a whole number, such as 2"),
        "guide_training": (Recipe | None, "Recipe(…) or None"),
        "recipe": (Recipe, "Recipe(…)"),
    }
    for name, (kind, wanted) in kinds.items():
        if not isinstance(value := getattr(space, name), kind):
            yield f"{name}: must be {wanted}, not {_shown(value)}"
    for name in ("task", "guide_task"):
        value = getattr(space, name)
        # Looked up without calling it: a property may load data.
        if value is not None and inspect.getattr_static(value, "inlet", None) is None:
            wanted = "a task, such as digits() of nas_theseus.tasks"
            yield f"{name}: must be {wanted}, not {_shown(value)}"


def _wrong_sequences(space: SearchSpace) -> Iterator[str]:
    kinds: dict[str, tuple[type, str]] = {
        "blocks": (BlockFamily, "Keep() or block(MyBlock)"),
        "widths": (Real, "0.5"),
        "objectives": (Objective, "minimize('macs') or maximize('val_accuracy')"),
        "constraints": (str, "'macs <= 2e6'"),
        "keep": (str, "'head'"),
        "callbacks": (object, "a function of one outcome"),
    }
    for name, (kind, example) in kinds.items():
        values = getattr(space, name)
        if isinstance(values, str) or not isinstance(values, Collection):
            yield f"{name}: must be a list of items such as {example}, not {_shown(values)}"
            continue
        for value in values:
            if not isinstance(value, kind):
                yield f"{name}: items must be such as {example}, not {_shown(value)}"
            elif isinstance(value, Real) and not 0 < float(value) < math.inf:
                yield f"{name}: must be finite shares above 0 of the guide's widths, not {value}"
            elif name == "callbacks" and (reason := callbacks.refusal(value)):
                yield f"{name}: {reason}"


def _shown(value: object) -> str:
    if isinstance(value, type | types.FunctionType):
        return f"{value.__name__} itself; call it: {value.__name__}(…)"
    return f"{repr(value).splitlines()[0]:.60} ({type(value).__name__})"
