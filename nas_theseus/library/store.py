"""Store of converted blocks by key, in a folder or at any fsspec address; entries are atomic."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor, nn

from nas_theseus.errors import LibraryError
from nas_theseus.library.block_key import FORMAT, BlockKey
from nas_theseus.library.record import DamagedEntry, Facts, Record, misfit
from nas_theseus.storage.blobs import Blobs, NoFileError
from nas_theseus.storage.redaction import without_credentials
from nas_theseus.values.version import VERSION

logger = logging.getLogger(__name__)

# Each format has its own folder, so that package versions can share a library without conflicts.
BLOCKS = f"blocks-{FORMAT}"
DAMAGED = "damaged"
MARKER = "library.txt"
# Largest files that are read: a shared library may contain anything.
MAX_RECORD_BYTES, MAX_WEIGHTS_BYTES = 2**20, 8 * 2**30

Found = TypeVar("Found")


@dataclass(frozen=True)
class Entry:
    """One converted block: its record, and its weights on the CPU."""

    record: Record
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class SetAside:
    """A damaged entry that was moved aside, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Verified:
    """Result of `Library.verify`.

    Attributes:
        sound: number of intact entries.
        set_aside: damaged entries that were moved aside.
        leftovers: files that belong to no entry, left by a running or killed writer.
    """

    sound: int
    set_aside: tuple[SetAside, ...]
    leftovers: int


@dataclass(frozen=True)
class Pruned:
    """Entries and leftover files that `Library.prune` removed, or would remove in a dry run."""

    records: tuple[Record, ...]
    leftovers: tuple[str, ...]


class Library:
    """Converted blocks, shared by all searches with the same guide and data.

    An entry is a file ``<id>.<sha256>.safetensors`` and then a file ``<id>.json``, each written
    atomically (`blobs`). The weights file has its hash in its name and the JSON is written last.
    So an entry exists whole or not at all, and files of two writers of one key never mix, even from
    machines whose results differ in bits. This needs no lock. Reading an entry detects damage: the
    entry is moved to ``damaged/`` with the reason and counts as absent, so that the block is
    converted again.

    Args:
        location: a folder, or an fsspec address such as ``s3://bucket/library``.
        create: whether to create the library if it does not exist.

    Raises:
        LibraryError: here and in all methods: the storage cannot be read or written, or is gone.
    """

    def __init__(self, location: str | Path, *, create: bool = True) -> None:
        self._blobs = Blobs(location)
        self._shown = without_credentials(self._blobs.location)
        if self._blobs.read(MARKER) is None:
            if not create:
                raise LibraryError(
                    f"there is no library at {self._shown}: a library is created when its first "
                    "block is saved; pass the --storage or --library of a search that ran"
                )
            self._blobs.write(MARKER, b"Blocks converted by nas-theseus: nas-theseus library ls\n")

    @property
    def location(self) -> str:
        """A folder's absolute path, or the address, so that other processes can open it."""
        folder = self._blobs.folder
        return self._blobs.location if folder is None else str(folder)

    def __contains__(self, key: BlockKey) -> bool:
        """Whether an entry exists with weights of the right size; only `get` reads the weights."""
        return self.record(key) is not None

    def record(self, key: BlockKey) -> Record | None:
        """The record of an entry that exists with weights of the right size; None otherwise."""
        return self._peek(key.id)

    def records(self, keys: Iterable[BlockKey]) -> dict[str, Record]:
        """Records of all keys that have an entry, by id; lists the files only once."""
        there = set(self._ids())
        found = {key.id: self.record(key) for key in keys if key.id in there}
        return {id_: record for id_, record in found.items() if record is not None}

    def get(self, key: BlockKey, block: nn.Module | None = None) -> Entry | None:
        """The entry of a key; None if there is none, or it was damaged and is now moved aside.

        Args:
            block: block to load the weights into; an entry whose tensors do not fit is damaged.
        """
        return self._checked(key.id, lambda record: self._whole(record, block))

    def put(self, key: BlockKey, state: Mapping[str, Tensor], facts: Facts) -> Record:
        """Save a block; an existing entry is not changed.

        Returns:
            The record of the entry now in the library.
        """
        known = self.record(key)
        if known is not None:
            return known
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in state.items()}
        weights = safetensors.torch.save(tensors)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        digest = hashlib.sha256(weights).hexdigest()
        record = Record(key, facts, digest, len(weights), VERSION, created)
        self._blobs.write(f"{BLOCKS}/{record.weights}", weights)
        self._blobs.write(f"{BLOCKS}/{key.id}.json", record.to_bytes(), exclusive=True)
        return self.record(key) or record

    def entries(self) -> Iterator[Record]:
        """The record of every entry, in order of ids; does not read the weights."""
        for id_ in self._ids():
            record = self._peek(id_)
            if record is not None:
                yield record

    def verify(self) -> Verified:
        """Read all of every entry and move damaged ones aside."""
        before = self._blobs.names(BLOCKS)
        sound: list[Record] = []
        damaged: list[SetAside] = []
        for id_ in self._ids():
            entry = self._checked(id_, lambda record: self._whole(record, None), damaged.append)
            if entry is not None:
                sound.append(entry.record)
        left = set(before) & set(self._blobs.names(BLOCKS)) - _files(sound)
        return Verified(len(sound), tuple(damaged), len(left))

    def prune(
        self,
        *,
        older_than: timedelta | None = None,
        guide: str | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove the entries that meet all given conditions, and files left by killed writers.

        Without any condition, no entry is removed.

        Args:
            older_than: smallest age of an entry.
            guide: first digits of one guide's hash.
            dry_run: return what would be removed, but remove nothing.

        Raises:
            LibraryError: the hashes of several guides begin with these digits.
        """
        now = datetime.now(UTC)
        records = list(self.entries())
        meant = {record.key.guide for record in records if record.key.guide.startswith(guide or "")}
        if guide and len(meant) > 1:
            raise LibraryError(
                f"{len(meant)} guides have hashes that begin with {guide!r}: "
                f"{', '.join(sorted(meant))}; add more digits"
            )
        chosen = [
            record
            for record in records
            if (older_than is not None or guide)
            and (older_than is None or now - record.made > older_than)
            and record.key.guide.startswith(guide or "")
        ]
        # Files younger than a day may belong to a running writer.
        unknown = [f"{BLOCKS}/{name}" for name in set(self._blobs.names(BLOCKS)) - _files(records)]
        leftovers = sorted(
            path
            for path in [*unknown, *self._aside("."), *self._aside(DAMAGED)]
            if now - self._blobs.modified(path) > timedelta(days=1)
        )
        if not dry_run:
            # JSON files first, so that no entry is without weights.
            entries = [name for r in chosen for name in (f"{r.key.id}.json", r.weights)]
            for path in [*(f"{BLOCKS}/{name}" for name in entries), *leftovers]:
                self._blobs.remove(path)
        return Pruned(tuple(chosen), tuple(path.rsplit("/", 1)[1] for path in leftovers))

    @contextmanager
    def working_on(self, key: BlockKey, timeout_s: float = 3600.0) -> Iterator[None]:
        """Wait while another process converts the same block; call `get` again once inside.

        The lock only avoids double work: storage that is not a folder, or cannot lock, does not
        wait.
        """
        lock = None
        if self._blobs.folder is not None:
            path = self._blobs.folder / "locks" / f"{key.id}.lock"
            lock = FileLock(path, timeout=timeout_s)
            try:
                path.parent.mkdir(exist_ok=True)
                lock.acquire()
            except (OSError, NotImplementedError) as error:  # a timeout is an OSError too
                logger.info("converting block %s without a lock: %s", key.id, error)
                lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _aside(self, folder: str) -> list[str]:
        """Temporary files in a folder, of running writers or of those that were killed."""
        if self._blobs.folder is None:
            return []  # other storage has none
        return [f"{folder}/{n}" for n in self._blobs.names(folder) if n.endswith(".aside")]

    def _ids(self) -> list[str]:
        names = self._blobs.names(BLOCKS)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def _peek(self, id_: str) -> Record | None:
        return self._checked(id_, self._sized)

    def _checked(
        self,
        id_: str,
        check: Callable[[Record], Found],
        on_damage: Callable[[SetAside], None] = lambda _: None,
    ) -> Found | None:
        """The result of `check` on an entry's record; None if there is no intact entry."""
        name = f"{BLOCKS}/{id_}.json"
        while True:
            text = record = None
            try:
                text = self._blobs.read(name, MAX_RECORD_BYTES)
                if text is None:
                    break
                if len(text) > MAX_RECORD_BYTES:
                    raise DamagedEntry(f"the record has more than {MAX_RECORD_BYTES:,} bytes")
                record = Record.from_bytes(text)
                if record.key.id != id_:
                    raise DamagedEntry(f"the record belongs to block {record.key.id}")
                return check(record)
            except (DamagedEntry, NoFileError) as damage:
                # Otherwise another process has removed or replaced the entry meanwhile.
                if text is None or self._blobs.read(name, MAX_RECORD_BYTES) == text:
                    self._set_aside(id_, str(damage), record)
                    on_damage(SetAside(id_, str(damage)))
        if self._blobs.read(MARKER) is None:
            raise LibraryError(
                f"library {self._shown} is gone since it was opened; mount or restore its storage, "
                "or use another library"
            )
        return None

    def _sized(self, record: Record) -> Record:
        size = self._blobs.size(f"{BLOCKS}/{record.weights}")
        if size != record.size_bytes:
            has = "are missing" if size is None else f"have {size:,} bytes"
            raise DamagedEntry(f"the weights {has}, the record says {record.size_bytes:,} bytes")
        if record.size_bytes > MAX_WEIGHTS_BYTES:
            raise DamagedEntry(f"the weights have more than {MAX_WEIGHTS_BYTES:,} bytes")
        return record

    def _whole(self, record: Record, block: nn.Module | None) -> Entry:
        weights = self._blobs.read(f"{BLOCKS}/{self._sized(record).weights}") or b""
        if hashlib.sha256(weights).hexdigest() != record.sha256:
            raise DamagedEntry("the weights' SHA-256 differs from the record's")
        try:
            state = safetensors.torch.load(weights)
        except SafetensorError as error:
            raise DamagedEntry(f"the weights are not a safetensors file: {error}") from error
        if block is not None and (mismatch := misfit(state, block)):
            raise DamagedEntry(mismatch)
        return Entry(record, state)

    def _set_aside(self, id_: str, reason: str, record: Record | None) -> None:
        logger.warning(
            "block %s of library %s: %s", id_, without_credentials(self._blobs.location), reason
        )
        where = f"{DAMAGED}/{id_}.{uuid.uuid4().hex[:8]}"
        self._blobs.move(f"{BLOCKS}/{id_}.json", f"{where}.json")
        if record is not None and record.key.id == id_:
            self._blobs.move(f"{BLOCKS}/{record.weights}", f"{where}.safetensors")
        self._blobs.write(f"{where}.txt", f"{reason}\n".encode())


def _files(records: list[Record]) -> set[str]:
    return {name for r in records for name in (f"{r.key.id}.json", r.weights)}
