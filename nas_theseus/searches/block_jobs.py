"""The blocks that proposed architectures need: stored, being converted, failed or missing."""

from __future__ import annotations

from nas_theseus.estimate.block_scores import BlockScores
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.status import BlockCounts
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.outcomes import BlockOutcome


class BlockJobs:
    """The blocks of one search: stored in the library, being converted, failed or missing.

    A block is converted by one trial at a time, and one that failed is not tried again. After a
    restart, the results that workers saved in `storage` are read again.

    Args:
        keys: makes the keys of the search's blocks; its guide is prepared.
        all_blocks: whether all blocks of the space are converted before the first trial.
    """

    def __init__(
        self, keys: BlockKeys, library: Library, storage: SearchFolder, all_blocks: bool = False
    ) -> None:
        self._keys = keys
        self._library = library
        self._storage = storage
        self._running: set[str] = set()
        self._made: dict[str, BlockOutcome] = {}
        self._failed: dict[str, BlockOutcome] = {}
        self._stored: dict[str, Facts] = {}
        self._known: dict[BlockChoice, dict[str, Facts]] = {}
        for outcome in storage.block_outcomes():
            self._take(outcome)
        # Blocks that are wanted before the first trial and have not ended, by the keys' ids.
        self._wanted: dict[str, tuple[BlockKey, list[BlockChoice]]] = {}
        if all_blocks:
            for (choice, _), key in keys.of_space().items():
                self._wanted.setdefault(key.id, (key, []))[1].append(choice)
            for key, _ in list(self._wanted.values()):
                self._drop_if_ended(key)

    @property
    def wanted(self) -> int:
        """How many blocks are wanted before the first trial and have not ended."""
        return len(self._wanted)

    def start_wanted(self) -> BlockKey | None:
        """As `start`, of the blocks that are wanted before the first trial."""
        for key, _ in list(self._wanted.values()):
            # Another search may have converted it.
            if key.id not in self._running and not self._drop_if_ended(key):
                self._running.add(key.id)
                return key
        return None

    def _drop_if_ended(self, key: BlockKey) -> bool:
        """Whether a block is stored or has failed; it is then wanted no more."""
        stored = self._is_stored(key)
        if not stored and key.id not in self._failed:
            return False
        _, choices = self._wanted.pop(key.id, (key, []))
        if stored:
            for choice in choices:
                self._known.setdefault(choice, {})[key.id] = self._stored[key.id]
        return True

    @property
    def counts(self) -> BlockCounts:
        made = self._made.values()
        own = self._made.keys() | self._running
        reused = [facts for block, facts in self._stored.items() if block not in own]
        return BlockCounts(
            len(made),
            len(reused),
            len(self._failed),
            len(self._running),
            sum(outcome.macs for outcome in made),
            sum(outcome.seconds for outcome in made),
            sum(facts.macs for facts in reused),
            sum(facts.seconds for facts in reused),
        )

    def errors(self) -> dict[BlockChoice, float]:
        """Score of each block known so far; see `BlockScores`."""
        if not self._known:
            return {}
        known = {choice: facts.values() for choice, facts in self._known.items()}
        return dict(BlockScores.of(known).values)

    def look_up(self, architecture: Architecture) -> None:
        """Count an architecture's blocks that are in the library as blocks of this search."""
        self.lacking(architecture)

    def lacking(self, architecture: Architecture) -> list[BlockKey]:
        """The blocks of an architecture that are not in the library, in order, each once.

        Raises:
            LibraryError: the library cannot be read; the same in all methods that use it.
        """
        lacking = {}
        for choice, key in zip(
            architecture.choices, self._keys.of_blocks(architecture), strict=True
        ):
            if key is None:
                continue
            if self._is_stored(key):
                self._known.setdefault(choice, {})[key.id] = self._stored[key.id]
            else:
                lacking[key.id] = key
        return list(lacking.values())

    def broken(self, architecture: Architecture) -> BlockOutcome | None:
        """A block that this architecture needs and that cannot be converted."""
        lacking = (self._failed.get(key.id) for key in self.lacking(architecture))
        return next((outcome for outcome in lacking if outcome is not None), None)

    def start(self, architecture: Architecture) -> BlockKey | None:
        """Choose a missing block that is not being converted yet, and count it as running."""
        for key in self.lacking(architecture):
            if key.id not in self._running:
                self._running.add(key.id)
                return key
        return None

    def ended(self, key: BlockKey, failure: str | None) -> BlockOutcome | None:
        """A block's trial ended.

        Args:
            failure: why it failed, if its worker saved no result.

        Returns:
            The block's failure; None if it is in the library.
        """
        self._running.discard(key.id)
        saved = self._storage.read_block(key.id)
        if saved is not None:
            self._take(saved)
        self._drop_if_ended(key)
        if self._is_stored(key):
            return None
        if key.id not in self._failed:
            reason = failure or (
                "its result was saved, but the block is not in the library; run 'nas-theseus "
                "library verify'"
            )
            self._failed[key.id] = BlockOutcome(key.id, str(key), failure=reason)
            self._wanted.pop(key.id, None)
        return self._failed[key.id]

    def _take(self, outcome: BlockOutcome) -> None:
        (self._made if outcome.failure is None else self._failed)[outcome.block] = outcome

    def _is_stored(self, key: BlockKey) -> bool:
        # Looked up once: if a block is removed later, the candidate that needs it converts it.
        if key.id not in self._stored:
            record = self._library.record(key)
            if record is None:
                return False
            self._stored[key.id] = record.facts
            self._failed.pop(key.id, None)
        return True
