"""Fixed-length genome of a search space: every trial has a value for every gene."""

from __future__ import annotations

from collections.abc import Mapping

from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Hyperparameter, Span


class Genome:
    """Genes ``cut_i``, ``block_i``, ``<block>.<hyperparameter>_i`` and ``width_i`` of every part i.

    `decode` is total: every genome is an architecture. A gene whose value does not fit is replaced
    by the nearest value that does, and inactive genes are ignored, so that genomes with the same
    meaning give the same architecture.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._parts = len(space.guide)
        self._open = self._open_outlets()
        self._inlets = {
            (span.start, share, name) for (span, share), fits in self._open.items() for name in fits
        }
        self.genes = self._genes()

    def _genes(self) -> dict[str, tuple[Hyperparameter, ...]]:
        genes: dict[str, tuple[Hyperparameter, ...]] = {}
        if self._space.max_span > 1:
            for part in range(1, self._parts):
                genes[f"cut_{part}"] = (True, False)
        for part in range(self._parts):
            fits = [f for (span, _), f in self._space.fitting.items() if span.start == part]
            here = [family for family in self._space.blocks if any(family.name in f for f in fits)]
            if len(here) > 1:
                genes[f"block_{part}"] = tuple(family.name for family in here)
            for family in here:
                for name, values in family.choices:
                    if len(values) > 1:
                        genes[f"{family.name}.{name}_{part}"] = values
            offered = [share for f in fits for shares in f.values() for share in shares]
            if len(set(offered)) > 1:
                genes[f"width_{part}"] = tuple(dict.fromkeys(offered))
        return genes

    def _open_outlets(self) -> dict[tuple[Span, float], dict[str, tuple[float, ...]]]:
        """`fitting` without choices after which the remaining parts cannot be covered."""
        coverable = {(self._parts, 1.0)}
        found = {}
        for span, share in sorted(self._space.fitting, key=lambda key: -key[0].start):
            fits = self._space.fitting[span, share]
            kept = {
                name: tuple(o for o in outlets if (span.stop, o) in coverable)
                for name, outlets in fits.items()
            }
            kept = {name: outlets for name, outlets in kept.items() if outlets}
            if kept:
                found[span, share] = kept
                coverable.add((span.start, share))
        return found

    def decode(self, genes: Mapping[str, Hyperparameter]) -> Architecture:
        """The architecture that a genome encodes."""
        choices: list[BlockChoice] = []
        start, share = 0, 1.0
        while start < self._parts:
            ends = (s.stop for s, inlet in self._open if (s.start, inlet) == (start, share))
            wanted = self._wanted_end(start, genes)
            span = self._space.span(start, min(ends, key=lambda end: (abs(end - wanted), end)))
            choices.append(self._choice(span, share, genes))
            start, share = span.stop, choices[-1].width_share
        return Architecture(tuple(choices))

    def _wanted_end(self, start: int, genes: Mapping[str, Hyperparameter]) -> int:
        end = start + 1
        while end < self._parts and not genes.get(f"cut_{end}", True):
            end += 1
        return end

    def _choice(self, span: Span, share: float, genes: Mapping[str, Hyperparameter]) -> BlockChoice:
        fits = self._open[span, share]
        names = list(fits)
        wanted = genes.get(f"block_{span.start}", names[0])
        if wanted not in names:
            declared = [family.name for family in self._space.blocks]
            wanted = names[declared.index(str(wanted)) % len(names)]
        family = self._space.families[str(wanted)]
        values = {
            name: genes.get(f"{family.name}.{name}_{span.start}", options[0])
            for name, options in family.choices
        }
        outlet = self._outlet_share(span, fits[family.name], genes)
        return BlockChoice(span, family.name, tuple(sorted(values.items())), outlet)

    def _outlet_share(
        self, span: Span, offered: tuple[float, ...], genes: Mapping[str, Hyperparameter]
    ) -> float:
        """The gene's width, or the nearest one behind which the next part's block can stand."""
        after = genes.get(f"block_{span.stop}")
        fitting = [share for share in offered if (span.stop, share, after) in self._inlets]
        wanted = float(genes.get(f"width_{span.start}", offered[0]))
        return min(fitting or offered, key=lambda share: (abs(share - wanted), share))

    def encode(self, architecture: Architecture) -> dict[str, Hyperparameter]:
        """A genome that decodes to the architecture; inactive genes take their first value."""
        genes = {name: values[0] for name, values in self.genes.items()}
        starts = {choice.span.start for choice in architecture.choices}
        for name in genes:
            if name.startswith("cut_"):
                genes[name] = int(name.removeprefix("cut_")) in starts
        for choice in architecture.choices:
            start = choice.span.start
            assigned = {f"block_{start}": choice.block} | {
                f"{choice.block}.{name}_{start}": value for name, value in choice.hyperparameters
            }
            assigned[f"width_{start}"] = choice.width_share
            genes.update({name: value for name, value in assigned.items() if name in genes})
        return genes
