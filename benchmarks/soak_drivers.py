"""Drivers of the soak's searches: started, waited for, and asked whether they ended clearly."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.soak_draw import Setup
from benchmarks.soak_spaces import SPACES
from tests.faults.clock import SLEEP
from tests.faults.commands import Driver, Inline, Search

# Marks the processes of a cell, so that those that are left over are found.
MARK = "NAS_THESEUS_SOAK"
# Each flush and rename takes so long with the library below, in milliseconds at most.
SLOW_MS = 400
SLOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static void wait_long(void) { usleep((useconds_t)(rand() % (LIMIT_MS * 1000))); }
int fsync(int file) { wait_long(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file); }
int fdatasync(int file) { wait_long(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file); }
int rename(const char *from, const char *to)
{
    wait_long();
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
"""


def preloads(folder: Path) -> dict[str, str]:
    """Libraries to load in front of a program by what they do; compiled once, in a folder."""
    fake = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    compiler = shutil.which("cc")
    if not fake or compiler is None:
        raise OSError("libfaketime and a C compiler are needed")
    sources = {"sleep": SLEEP, "slow": SLOW}
    for name, text in sources.items():
        if not (folder / f"{name}.so").exists():
            (folder / f"{name}.c").write_text(text)
            made = folder / f"{name}.{os.getpid()}.aside"
            flags = ["-shared", "-fPIC", f"-DLIMIT_MS={SLOW_MS}", "-o", str(made)]
            subprocess.run([compiler, *flags, str(folder / f"{name}.c"), "-ldl"], check=True)
            made.replace(folder / f"{name}.so")
    return {"clock": f"{folder / 'sleep.so'}:{fake[0]}", "slow": str(folder / "slow.so")}


def options_of(setup: Setup) -> tuple[str, ...]:
    """Command-line options of a search, without where its records are."""
    found = ["--sampler", setup.sampler, "--seed", str(setup.search_seed)]
    if not setup.rungs:
        found.append("--no-rungs")
    if setup.library == "none":
        found.append("--no-library")
    return tuple(found)


def make_search(
    setup: Setup, folder: Path, options: tuple[str, ...], environment: dict[str, str], storage: Path
) -> Search:
    """The search of a cell; nothing is started."""
    kind = Inline if setup.kind in ("forked", "preloaded") else Search
    return kind(
        folder, setup.trials, (*options_of(setup), *options), {MARK: str(folder), **environment},
        storage=storage, text=SPACES[setup.space],
    )  # fmt: skip


def wait(driver: Driver, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """The exit code of a driver, or None if it goes on after so many seconds, or until a time."""
    end = time.monotonic() + seconds
    while (code := driver.poll()) is None and time.monotonic() < end and not until():
        time.sleep(0.02)
    return code


def kill(driver: Driver) -> bool:
    """End a driver with kill -9; whether it was running."""
    if driver.poll() is not None:
        return False
    with suppress(ProcessLookupError):
        os.kill(driver.pid, signal.SIGCONT)
        os.kill(driver.pid, signal.SIGKILL)
    return driver.wait(60) == -signal.SIGKILL


def signalled(pids: Iterable[int], number: int) -> bool:
    """Send a signal to each process; whether any was there."""
    done = False
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            done = True
    return done


def left_over(folder: Path) -> list[int]:
    """Processes of a cell's drivers that are still there."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def last_words(output: str) -> str:
    """The error of a driver that ended with exit code 2, in one line; empty if there is none."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", output)
    _, found, rest = said.rpartition("error: ")
    return " ".join(rest.split()) if found else ""
