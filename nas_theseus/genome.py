"""Fixed-length genome of a search space: every gene is in every trial (design, decision 8)."""

from __future__ import annotations

from collections.abc import Mapping

from nas_theseus.space import SearchSpace
from nas_theseus.values import Architecture, BlockChoice, Hyperparameter, Span


class Genome:
    """Genes ``cut_i``, ``block_i`` and ``<block>.<hyperparameter>_i`` for every guide part i.

    `decode` is total: a gene whose value cannot stand is replaced by the nearest that can, and
    inactive genes are dropped, so that genomes with one meaning give one architecture.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._parts = len(space.guide)
        self._ends = self._coverable_ends()
        self.genes = self._genes()

    def _genes(self) -> dict[str, tuple[Hyperparameter, ...]]:
        genes: dict[str, tuple[Hyperparameter, ...]] = {}
        if self._space.max_span > 1:
            for part in range(1, self._parts):
                genes[f"cut_{part}"] = (True, False)
        for part in range(self._parts):
            spans = [span for span in self._space.fitting if span.start == part]
            here = [
                family
                for family in self._space.blocks
                if any(family in self._space.fitting[span] for span in spans)
            ]
            if len(here) > 1:
                genes[f"block_{part}"] = tuple(family.name for family in here)
            for family in here:
                for name, values in family.choices:
                    if len(values) > 1:
                        genes[f"{family.name}.{name}_{part}"] = values
        return genes

    def _coverable_ends(self) -> dict[int, list[int]]:
        """For each part, the ends of spans behind which the rest can still be covered."""
        ends: dict[int, list[int]] = {self._parts: []}
        for start in reversed(range(self._parts)):
            ends[start] = [
                span.stop
                for span in self._space.fitting
                if span.start == start and (span.stop == self._parts or ends[span.stop])
            ]
        return ends

    def decode(self, genes: Mapping[str, Hyperparameter]) -> Architecture:
        """The architecture that a genome means."""
        choices: list[BlockChoice] = []
        start = 0
        while start < self._parts:
            wanted = start + 1
            while wanted < self._parts and not genes.get(f"cut_{wanted}", True):
                wanted += 1
            stop = min(self._ends[start], key=lambda end: (abs(end - wanted), end))
            choices.append(self._choice(Span(start, stop), genes))
            start = stop
        return Architecture(tuple(choices))

    def _choice(self, span: Span, genes: Mapping[str, Hyperparameter]) -> BlockChoice:
        families = self._space.fitting[span]
        names = [family.name for family in families]
        wanted = genes.get(f"block_{span.start}", names[0])
        if wanted not in names:
            declared = [family.name for family in self._space.blocks]
            wanted = names[declared.index(str(wanted)) % len(names)]
        family = families[names.index(str(wanted))]
        values = {
            name: genes.get(f"{family.name}.{name}_{span.start}", options[0])
            for name, options in family.choices
        }
        return BlockChoice(span, family.name, tuple(sorted(values.items())))

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
            genes.update({name: value for name, value in assigned.items() if name in genes})
        return genes
