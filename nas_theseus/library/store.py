"""Store of converted blocks by key: a folder or any fsspec address, entries whole or not there."""

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
from nas_theseus.storage.blobs import Blobs
from nas_theseus.storage.redaction import without_credentials
from nas_theseus.values.version import VERSION

logger = logging.getLogger(__name__)

# Another format is another folder: versions that share a library leave each other's blocks alone.
BLOCKS = f"blocks-{FORMAT}"
DAMAGED = "damaged"
MARKER = "library.txt"
# Most that is read of one file: a shared library may hold anything.
MAX_RECORD_BYTES, MAX_WEIGHTS_BYTES = 2**20, 8 * 2**30

Found = TypeVar("Found")


@dataclass(frozen=True)
class Entry:
    """One converted block: what is known of it, and its weights on the CPU."""

    record: Record
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class SetAside:
    """A damaged entry that was moved away, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Verified:
    """What `Library.verify` found.

    Attributes:
        sound: how many entries are whole.
        set_aside: those that were not.
        leftovers: files that no entry names, of a writer at work or of one that was killed.
    """

    sound: int
    set_aside: tuple[SetAside, ...]
    leftovers: int


@dataclass(frozen=True)
class Pruned:
    """What `Library.prune` removed, or would have removed: entries, and other files."""

    records: tuple[Record, ...]
    leftovers: tuple[str, ...]


class Library:
    """Converted blocks that all searches with the same guide and data share.

    An entry is ``<id>.<sha256>.safetensors`` and then ``<id>.json``, each written whole
    (`blobs`). The weights' name holds their hash and the JSON comes last, so an entry is there
    whole or not at all, and two writers of one key never mix, even on machines that do not give
    equal bits; no lock is needed for that. What is damaged all the same is found when it is read,
    moved to ``damaged/`` with the reason, and counts as absent, so that it is made again.

    Args:
        location: a folder, or an fsspec address such as ``s3://bucket/library``.
        create: make it where there is none.

    Raises:
        LibraryError: here and in all methods: the storage cannot be read or written, or is gone.
    """

    def __init__(self, location: str | Path, *, create: bool = True) -> None:
        self._blobs = Blobs(location)
        self._shown = without_credentials(self._blobs.location)
        if self._blobs.read(MARKER) is None:
            if not create:
                raise LibraryError(
                    f"there is no library at {self._shown}: it begins with the first block that is "
                    "kept there; give the storage that holds one"
                )
            self._blobs.write(MARKER, b"Blocks converted by nas-theseus: nas-theseus library ls\n")

    @property
    def location(self) -> str:
        """As another process on this machine finds it: a folder's whole path, or the address."""
        folder = self._blobs.folder
        return self._blobs.location if folder is None else str(folder)

    def __contains__(self, key: BlockKey) -> bool:
        """Whether an entry is there, its weights of the right size; `get` reads them too."""
        return self.record(key) is not None

    def record(self, key: BlockKey) -> Record | None:
        """What is known of an entry that is there, its weights of the right size."""
        return self._peek(key.id)

    def records(self, keys: Iterable[BlockKey]) -> dict[str, Record]:
        """Records of those of many keys that have an entry, by id; files are listed once."""
        there = set(self._ids())
        found = {key.id: self.record(key) for key in keys if key.id in there}
        return {id_: record for id_, record in found.items() if record is not None}

    def get(self, key: BlockKey, block: nn.Module | None = None) -> Entry | None:
        """The entry of a key; None when there is none, or it was damaged and is now set aside.

        Args:
            block: what the weights are for; an entry whose tensors are not its is damaged.
        """
        return self._checked(key.id, lambda record: self._whole(record, block))

    def put(self, key: BlockKey, state: Mapping[str, Tensor], facts: Facts) -> Record:
        """Keep a block; one that is there already stays as it is.

        Returns:
            The record of the entry that is there now.
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
        """The record of every entry, in order of ids; the content of weights is not read."""
        for id_ in self._ids():
            record = self._peek(id_)
            if record is not None:
                yield record

    def verify(self) -> Verified:
        """Read every entry whole and set the damaged ones aside."""
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
        """Remove the entries that meet every condition given, and what killed writers left.

        Args:
            older_than: time since an entry was made.
            guide: beginning of one guide's hash. Without any condition no entry is removed.
            dry_run: remove nothing.

        Raises:
            LibraryError: blocks of several guides are here whose hashes begin so.
        """
        now = datetime.now(UTC)
        records = list(self.entries())
        meant = {record.key.guide for record in records if record.key.guide.startswith(guide or "")}
        if guide and len(meant) > 1:
            raise LibraryError(
                f"{len(meant)} guides have hashes that begin with {guide!r}: "
                f"{', '.join(sorted(meant))}; give more digits of one of them"
            )
        chosen = [
            record
            for record in records
            if (older_than is not None or guide)
            and (older_than is None or now - record.made > older_than)
            and record.key.guide.startswith(guide or "")
        ]
        # What is younger than a day may be of a writer at work.
        leftovers = [
            name
            for name in sorted(set(self._blobs.names(BLOCKS)) - _files(records))
            if now - self._blobs.modified(f"{BLOCKS}/{name}") > timedelta(days=1)
        ]
        if not dry_run:
            # The JSON first: no entry without weights.
            entries = [name for r in chosen for name in (f"{r.key.id}.json", r.weights)]
            for name in [*entries, *leftovers]:
                self._blobs.remove(f"{BLOCKS}/{name}")
        return Pruned(tuple(chosen), tuple(leftovers))

    @contextmanager
    def working_on(self, key: BlockKey, timeout_s: float = 3600.0) -> Iterator[None]:
        """Wait while another process converts the same block; look for it again inside.

        It only saves work: on storage that is no folder or cannot lock, nothing waits.
        """
        lock = None
        if self._blobs.folder is not None:
            path = self._blobs.folder / "locks" / f"{key.id}.lock"
            lock = FileLock(path, timeout=timeout_s)
            try:
                path.parent.mkdir(exist_ok=True)
                lock.acquire()
            except (OSError, NotImplementedError) as error:  # a timeout is an OSError too
                logger.info("block %s is worked on without a lock: %s", key.id, error)
                lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _ids(self) -> list[str]:
        names = self._blobs.names(BLOCKS)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def _peek(self, id_: str) -> Record | None:
        return self._checked(id_, self._sized)

    def _checked(
        self,
        id_: str,
        check: Callable[[Record], Found],
        told: Callable[[SetAside], None] = lambda _: None,
    ) -> Found | None:
        """What `check` makes of an entry's record; None when there is none that can be trusted."""
        name = f"{BLOCKS}/{id_}.json"
        while (text := self._blobs.read(name, MAX_RECORD_BYTES)) is not None:
            record = None
            try:
                if len(text) > MAX_RECORD_BYTES:
                    raise DamagedEntry(f"the record has more than {MAX_RECORD_BYTES:,} bytes")
                record = Record.from_bytes(text)
                if record.key.id != id_:
                    raise DamagedEntry(f"the record is of block {record.key.id}")
                return check(record)
            except DamagedEntry as damage:
                # Otherwise another process has removed it or made it again meanwhile.
                if self._blobs.read(name, MAX_RECORD_BYTES) == text:
                    self._set_aside(id_, str(damage), record)
                    told(SetAside(id_, str(damage)))
        if self._blobs.read(MARKER) is None:
            raise LibraryError(
                f"library {self._shown} is gone: it was there when it was opened; mount "
                "or restore its storage, or give another"
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
            raise DamagedEntry("the weights' SHA-256 is not the record's")
        try:
            state = safetensors.torch.load(weights)
        except SafetensorError as error:
            raise DamagedEntry(f"the weights are no safetensors: {error}") from error
        if block is not None and (said := misfit(state, block)):
            raise DamagedEntry(said)
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
