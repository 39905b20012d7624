"""Random architectures of a search's space with predicted quality: what chance gives at a cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random

from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.additive import AdditiveEstimate, as_learnt, as_measured
from nas_theseus.estimate.block_scores import capacities, errors_of
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.genome import Genome
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.storage.checked_json import read_checked, write_checked
from nas_theseus.storage.json_files import MALFORMED, number, text, whole
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Cost, Evaluation

COUNT = 300
# As in the report: with more, learning the estimate would take longer.
_MOST = 150


@dataclass(frozen=True)
class Chance:
    """Random architectures; saved when a search finishes, so that reports run no code of it.

    Attributes:
        metric: the predicted quality.
        quality: of each architecture, as the search's estimate predicts it.
        costs: by name, of each architecture; those that are known without an evaluation.
        in_library: share of their new blocks whose scores the library knows; of the others the
            estimate knows only what candidates taught it.
        learnt_from: number of evaluations that the estimate was given.
    """

    metric: str
    quality: tuple[float, ...]
    costs: Mapping[str, tuple[float, ...]]
    in_library: float
    learnt_from: int

    def write(self, folder: SearchFolder) -> None:
        """Save it in the search's folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_checked(folder.chance_file, asdict(self))

    @classmethod
    def read(cls, folder: SearchFolder) -> Chance | None:
        """What was saved; None if there is nothing, or if the file is damaged."""
        try:
            data = read_checked(folder.chance_file)
            quality = tuple(map(number, data["quality"]))
            costs = {name: tuple(map(number, given)) for name, given in data["costs"].items()}
            if any(len(given) != len(quality) for given in costs.values()):
                return None
            shares = number(data["in_library"]), whole(data["learnt_from"])
            return cls(text(data["metric"]), quality, costs, *shares)
        except (OSError, *MALFORMED):
            return None

    def within(self, cost: str, low: float, high: float) -> list[float]:
        """Qualities of the architectures whose cost is in [low, high]."""
        costs = self.costs.get(cost, ())
        return [
            quality for quality, one in zip(self.quality, costs, strict=False) if low <= one <= high
        ]


def random_architectures(
    space: SearchSpace,
    costs: CostTable,
    evaluations: Sequence[Evaluation],
    errors: Mapping[BlockChoice, float],
    seed: int,
) -> Chance | None:
    """Random genomes of a space, each architecture once, as the estimate predicts their quality.

    Those that break a limit on an additive cost are drawn again. The estimate is the search's own:
    it begins from the scores of the library's blocks and learns from the evaluations.

    Args:
        evaluations: the newest 150 are used.
        errors: scores of the library's blocks by choice; see `BlockScores`.

    Returns:
        None if no objective is a quality, or if there is nothing to predict from.
    """
    goal = next((goal for goal in space.goals if goal.name not in space.measures), None)
    if goal is None or not (evaluations or errors):
        return None
    preserving = {name for name, family in space.families.items() if family.preserves}
    drawn = dict(_draw(space, costs, Random(derive_seed(seed, "chance"))))
    if not drawn:
        return None
    choices = [choice for architecture in drawn for choice in architecture.choices]
    prior = errors_of(errors, choices, space)
    estimate = AdditiveEstimate(len(space.guide), prior, capacities=capacities(space, costs))
    for one in evaluations[-_MOST:]:
        estimate.update(one.architecture, as_learnt(one.value(goal.name), goal), rung="final")
    means, _ = estimate.predict(list(drawn))
    new = [choice for choice in choices if choice.block not in preserving]
    known = sum(choice in errors for choice in new)
    names = next(iter(drawn.values())).known()
    return Chance(
        goal.name,
        tuple(as_measured(float(mean), goal) for mean in means),
        {name: tuple(float(cost[name]) for cost in drawn.values()) for name in names},
        known / len(new) if new else 1.0,
        len(evaluations[-_MOST:]),
    )


def _draw(
    space: SearchSpace, costs: CostTable, random: Random
) -> Iterator[tuple[Architecture, Cost]]:
    """Up to `COUNT` different architectures within the limits; four tries for each."""
    genome, seen, found = Genome(space), set[Architecture](), 0
    limits = [limit for limit in space.limits if limit.name in costs.names]
    for _ in range(4 * COUNT):
        genes = {name: random.choice(values) for name, values in genome.genes.items()}
        architecture = genome.decode(genes)
        if architecture in seen:
            continue
        seen.add(architecture)
        cost = costs.of(architecture)
        if all(limit.violation(cost.known()) <= 0 for limit in limits):
            yield architecture, cost
            found += 1
            if found == COUNT:
                return
