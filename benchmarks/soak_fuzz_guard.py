"""What a reader must not do: an audit hook that notes it, and limits on memory and time.

An audit hook cannot be removed, so it is added in a child of the benchmark, and can be paused.
"""

from __future__ import annotations

import os
import resource
import signal
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

MOST_BYTES = 3 << 29  # that reading one small file may take beside what the process has already
MOST_S = 20  # of its processor

# Where Python, its packages and the kernel have files that reading anything may read.
CODE = tuple(
    {
        os.path.realpath(str(path))
        for path in (
            *sysconfig.get_paths().values(),
            sys.prefix,
            sys.base_prefix,
            *site.getsitepackages(),
            Path(__file__).parents[1],
        )
    }
)
SYSTEM = ("/proc", "/sys", "/dev/null", "/dev/urandom", "/etc/ld.so", "/usr/lib", "/lib",
          "/usr/share/zoneinfo", "/etc/localtime")  # fmt: skip
NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty",
         "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "pty.spawn",
         "pickle.find_class", "os.startfile", "webbrowser.open", "urllib.Request",
         "ftplib.connect", "smtplib.connect", "os.kill")  # fmt: skip
CHANGES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2,
           "os.symlink": 2, "os.truncate": 1, "os.chmod": 1, "os.chown": 1,
           "shutil.rmtree": 1, "shutil.move": 2, "shutil.unpack_archive": 2}  # fmt: skip
# What is compiled from text that a library makes, such as named tuples and data classes.
GENERATED = ("<string>", "<attrs", "<frozen", "<__array_function__")


class HangError(BaseException):
    """One input took longer than `MOST_S`."""


class Guard:
    """Notes what reading does beyond its own folder.

    Args:
        folders: what may be read and written: that of the input, and that of temporary files.
        runs: whether a file in it may be run: code to whose running the user has consented.
    """

    def __init__(self, folders: Sequence[Path], runs: bool = False) -> None:
        self._folders, self._runs = [os.path.realpath(one) for one in folders], runs
        self._on = False
        self._inside = False
        self._names: set[str] = set()
        self.noted: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what is done meanwhile, and end it when it takes too long."""
        self.noted.clear()
        signal.signal(signal.SIGPROF, _hangs)
        signal.setitimer(signal.ITIMER_PROF, MOST_S)
        self._on = True
        try:
            yield
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on or self._inside:
            return
        self._inside = True  # what the check itself does is not looked at
        try:
            said = self._wrong(event, args)
        finally:
            self._inside = False
        if said is not None:
            self.noted.append(said)

    def _wrong(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event in NEVER:
            return f"{event} {args!r:.120}"
        if event == "open":
            return self._wrong_open(*args)
        if event == "exec":
            return self._wrong_code(args[0])
        if event == "compile":
            known = self._known(str(args[1])) or self._is_own_code(*args)
            return None if known else f"compile of {args[1]!r:.120}"
        if event in CHANGES:
            paths = [path for path in args[: CHANGES[event]] if isinstance(path, str | bytes)]
            # A link is moved or removed, not what it stands for.
            names = [os.path.abspath(os.fsdecode(path)) for path in paths]
            wrong = [
                n for n in names if n not in self._folders and not self._own(n.rpartition("/")[0])
            ]
            return f"{event} {wrong!r:.200}" if wrong else None
        return None

    def _wrong_open(self, path: Any, mode: Any, flags: Any) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None  # a descriptor, or a socket of C's
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else False
        writes = writes or (isinstance(mode, str) and bool(set(mode) & set("wax+")))
        name = os.path.realpath(os.fsdecode(path))
        if self._own(name) or name == "/dev/null":
            return None
        if not writes and name.startswith((*CODE, *SYSTEM)):
            return None
        return f"open of {name!r} to {'write' if writes else 'read'}"

    def _wrong_code(self, code: Any) -> str | None:
        if not isinstance(code, CodeType) or self._known(code.co_filename):
            return None
        return f"exec of {code.co_filename!r:.120}"

    def _is_own_code(self, source: Any, name: Any) -> bool:
        """Whether a text that may run is that of a file here; its name may be where it was once."""
        if not self._runs or not isinstance(source, str | bytes):
            return False
        text = source.encode() if isinstance(source, str) else source
        files = (path for folder in self._folders for path in Path(folder).rglob("*.py"))
        own = any(path.is_file() and path.read_bytes() == text for path in files)
        if own:
            self._names.add(str(name))
        return own

    def _known(self, name: str) -> bool:
        if name.startswith(GENERATED) or name in self._names:
            return True
        whole = os.path.realpath(name)
        return whole.startswith(CODE) or (self._runs and self._own(whole))

    def _own(self, path: Any) -> bool:
        name = os.path.realpath(os.fsdecode(path))
        return any(name == one or name.startswith(one + os.sep) for one in self._folders)


def _hangs(number: int, frame: FrameType | None) -> None:
    raise HangError(f"longer than {MOST_S} s")


def limit_memory() -> None:
    """Allow `MOST_BYTES` of address space more than this process has, and no core files."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
