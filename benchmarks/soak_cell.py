"""One cell of the soak: a search that faults disturb, run until it finishes, and then checked."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from filelock import FileLock

from benchmarks.soak_check import (
    Found,
    Kept,
    Places,
    Undisturbed,
    check,
    front_of,
    hashes_of_weights,
    read_results,
)
from benchmarks.soak_damage import Damage, damage, kind_of, remedy
from benchmarks.soak_draw import Fault, Setup, draw
from benchmarks.soak_drivers import (
    kill,
    last_words,
    left_over,
    make_search,
    preloads,
    signalled,
    wait,
)
from benchmarks.soak_services import BUCKET, Services
from nas_theseus.values.ids import short_hash
from nas_theseus.values.settings import ExecutorSettings
from tests.faults.commands import Driver, Search
from tests.faults.ray_nodes import RayCluster

DISK_BYTES, BALLAST_BYTES = 96 << 20, 32 << 20
DAY_S = 86_400
# MLflow's tables, made once for all cells that do not make their own.
TABLES = "tables.db"
# A search that does not end in so many seconds hangs; a launch that failed is tried again so often.
FINISH_S, LAUNCHES = 600.0, 5
# Ray's processes end by themselves after their driver is killed.
GRACE_S = 60.0


@dataclass
class Tally:
    """What happened in a cell, and what is wrong besides what the check finds.

    Attributes:
        kills: processes, nodes and servers killed with kill -9.
        happened: how often each fault happened.
        damaged: files damaged; `named` of these were named in a message whose remedy helped.
        unclear_ends: drivers that ended neither well nor with one clear message.
        hangs: drivers that went on for too long after all faults had ended.
        processes_left: processes of ended drivers that did not end.
    """

    kills: int = 0
    damaged: int = 0
    named: int = 0
    launches: int = 0
    finished: int = 0
    unclear_ends: int = 0
    hangs: int = 0
    processes_left: int = 0
    happened: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Whether anything went wrong."""
        return self.unclear_ends + self.hangs + self.processes_left


class Cell:
    """A search under faults.

    Args:
        folder: of this cell alone.
        shared: folder of what cells share: undisturbed searches and compiled libraries.
    """

    def __init__(self, setup: Setup, faults: list[Fault], folder: Path, shared: Path) -> None:
        self.setup, self.faults, self.folder, self.shared = setup, faults, folder, shared
        self.tally, self.kept = Tally(), Kept()
        self.expected = undisturbed(setup, shared)
        self.storage = folder / "disk" if setup.disk else folder / "storage"
        self.services = Services(folder, setup.services)
        self.cluster: RayCluster | None = None
        self.search: Search
        self.driver: Driver | None = None
        self.damages: list[Damage] = []
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._said = 0
        self._ended_well = False

    def run(self) -> Found:
        """Start what it needs, disturb the search, finish it and check it."""
        with self._disk():
            try:
                self.services.start()
                self._prepare()
                for fault in self.faults:
                    self._disturb(fault)
                self._finish()
                return self._checked()
            finally:
                if self.driver is not None:
                    kill(self.driver)
                if self.cluster is not None:
                    self.cluster.stop()
                self._sweep()
                self.services.stop()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        if not self.setup.disk:
            yield
            return
        self.storage.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.storage)]
        subprocess.run(["mount", *options], check=True)
        try:
            (self.storage / "ballast").write_bytes(bytes(BALLAST_BYTES))
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.storage)], check=True)

    def _prepare(self) -> None:
        setup, environment, options = self.setup, self.services.environment, list[str]()
        if setup.library == "store":
            options += ["--library", f"s3://{BUCKET}/library"]
        if setup.study == "sqlite":
            environment["NAS_THESEUS_STUDY"] = f"sqlite:///{self.folder / 'study.db'}"
        options += ["--tracker", "json-lines" if setup.tracker == "lines" else "mlflow"]
        if setup.preload:
            environment["LD_PRELOAD"] = preloads(self.shared)[setup.preload]
            self._offset.write_text("+0")
            environment |= {
                "FAKETIME_TIMESTAMP_FILE": str(self._offset), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
            }  # fmt: skip
        if setup.kind == "cluster":
            options += ["--address", self._new_cluster()]
            assert self.cluster is not None
            environment |= self.cluster.environment
        self.search = make_search(
            setup, self.folder / "search", tuple(options), environment, self.storage / "theseus"
        )
        if setup.tracker == "sqlite" and not setup.new:
            shutil.copy(self.shared / TABLES, self.search.folder / "mlflow.db")

    def _new_cluster(self) -> str:
        # Paths of sockets are short.
        folder = self.folder / f"r{self.tally.launches}"
        folder.mkdir()
        self.cluster = RayCluster(folder)
        self.cluster.start()
        self.nodes = [self.cluster.add() for _ in range(self.setup.parallel)]
        return self.cluster.address

    @property
    def _offset(self) -> Path:
        return self.folder / "offset"

    @property
    def places(self) -> Places:
        """Where the records of the search are."""
        setup, storage = self.setup, self.search.storage
        library: str | None = str(storage.library)
        given: dict[str, Any] = {}
        if setup.library == "store":
            library = f"s3://{BUCKET}/library"
            port = self.services.servers["store"].port
            given = {"key": "key", "secret": "secret",
                     "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"}}  # fmt: skip
        study = None
        if setup.study == "sqlite":
            study = f"sqlite:///{self.folder / 'study.db'}"
        elif setup.study == "postgresql":
            study = self.services.study(self.services.servers["database"].port)
        tracker = None
        if setup.tracker == "sqlite":
            tracker = f"sqlite:///{self.search.folder / 'mlflow.db'}"
        elif setup.tracker == "server":
            tracker = f"http://127.0.0.1:{self.services.servers['tracker'].port}"
        return Places(
            storage.folder, None if setup.library == "none" else library, given, study, tracker
        )

    def _start(self) -> Driver:
        self.tally.launches += 1
        self._ended_well = False
        parallel = self.setup.parallel
        return self.search.start(parallel)

    def _running(self) -> Driver:
        """The driver, started again if it has ended."""
        if self.driver is None or self._ended(self.driver):
            self.driver = self._start()
        return self.driver

    def _ended(self, driver: Driver) -> bool:
        """Whether a driver has ended; how it did is judged once."""
        code = driver.poll()
        if code is None:
            return False
        self._judge(code)
        self.driver = None
        return True

    def _judge(self, code: int, *, killed: bool = False) -> str:
        """Its message if it ended with one; counts any end that is unclear."""
        output = self.search.folder / "output.log"
        with output.open("rb") as file:
            file.seek(self._said)
            said = file.read().decode(errors="replace")
            self._said = file.tell()
        self._ended_well = code == 0
        if killed or code == 0:
            if "Traceback" in said:
                self.tally.log.append(f"a traceback, though it went on: {said[-1500:]}")
                self.tally.unclear_ends += 1
            return ""
        words = last_words(said)
        if code == 1 and any(line.startswith("kill head") for line in self.tally.log):
            # Ray itself ends a driver whose head is gone; what to do was said before.
            words = said[said.find("Ray's head") :] if "Ray's head" in said else ""
        elif code != 2:
            words = ""
        if "Traceback" in said or not words:
            self.tally.unclear_ends += 1
            self.tally.log.append(f"unclear end {code}: {said[-3000:]}")
        else:
            self.tally.log.append(f"it ended: {words[:600]}")
        return words

    def _disturb(self, fault: Fault) -> None:
        driver = self._running()
        scale_s = self.expected.seconds * {"forked": 1, "preloaded": 3, "ray": 4}.get(
            self.setup.kind, 4
        )
        self.tally.log.append(f"{fault.name} after {fault.after * scale_s:.1f} s")
        wait(driver, fault.after * scale_s)
        verb, _, what = fault.name.partition(" ")
        act: Callable[[Fault, str], bool] = {
            "kill": self._kill, "stop": self._stop, "second": self._second,
            "damage": self._damage, "fill": self._fill, "jump": self._jump,
            "reset": self._proxied, "slow": self._proxied,
        }[verb]  # fmt: skip
        if act(fault, what):
            self.tally.kills += verb == "kill"
            self.tally.happened[fault.name] = self.tally.happened.get(fault.name, 0) + 1
        else:
            self.tally.log.append("(it came too late)")
        if self.search.storage.evaluations.is_dir():
            self.kept.take(self.places)
            self.tally.finished += len(self.kept.results)

    def _kill(self, fault: Fault, what: str) -> bool:
        if what == "driver":
            return self._kill_driver()
        if what == "worker":
            worker = self._worker(fault)
            return worker is not None and signalled([worker], signal.SIGKILL)
        if what in ("node", "head"):
            return self._kill_node(what)
        done = bool(self.services.kill(what))
        if self.driver is not None:
            wait(self.driver, fault.seconds)
        self.services.restart(what)
        return done

    def _kill_driver(self) -> bool:
        assert self.driver is not None
        done = kill(self.driver)
        code = self.driver.poll()
        self._judge(0 if code is None else code, killed=done)
        self.driver = None
        return done

    def _worker(self, fault: Fault) -> int | None:
        """A process that runs a trial, once there is one."""
        assert self.driver is not None
        driver, found = self.driver, list[int]()

        def there() -> bool:
            above = [driver.pid, *(node.pid for node in self.nodes)]
            found[:] = [pid for one in above for pid in self.search.workers(one)]
            return bool(found)

        wait(driver, 60, there)
        return found[int(fault.choice * len(found))] if found else None

    def _kill_node(self, what: str) -> bool:
        assert self.cluster is not None
        if what == "node":
            node = self.nodes.pop(0)
            self.cluster.kill(node)
            self.nodes.append(self.cluster.add())
            return True
        self.cluster.stop()
        if self.driver is not None and wait(self.driver, 180) is None:
            self.tally.log.append("the driver went on for 180 s without Ray's head")
            self._kill_driver()
        elif self.driver is not None:
            self._ended(self.driver)
        options = [*self.search.options]
        options[options.index("--address") + 1] = self._new_cluster()
        self.search.options = tuple(options)
        self.search.environment |= self.cluster.environment
        return True

    def _stop(self, fault: Fault, what: str) -> bool:
        assert self.driver is not None
        if what == "worker":
            worker = self._worker(fault)
            pids = [] if worker is None else [worker]
        elif what == "driver":
            pids = [self.driver.pid] if self.driver.poll() is None else []
        else:
            pids = self.services.processes(what)
        done = signalled(pids, signal.SIGSTOP)
        time.sleep(fault.seconds)
        signalled(pids, signal.SIGCONT)
        return done

    def _second(self, fault: Fault, what: str) -> bool:
        """A second driver, of which one must say that another is running."""
        assert self.driver is not None
        if self.driver.poll() is not None:
            return False
        other = self._start()
        code = wait(other, FINISH_S, lambda: self.driver is None or self.driver.poll() is not None)
        if code is None:  # the first has ended: the second is the driver now
            self._ended(self.driver)
            self.driver = other
        elif "already running" not in self._judge(code) and self.driver.poll() is None:
            self.tally.unclear_ends += 1
            self.tally.log.append("a second driver ran beside the first")
        return True

    def _damage(self, fault: Fault, what: str) -> bool:
        """The driver is killed, a file is damaged, and the same command is given again."""
        self.tally.kills += self._kill_driver()
        root = self.search.storage.root
        if self.search.storage.evaluations.is_dir():
            self.kept.take(self.places)
        done = damage(root, fault.choice) if root.is_dir() else None
        if done is None:
            return False
        self.tally.damaged += 1
        self.damages.append(done)
        self.tally.log.append(f"{done.path.relative_to(root)}: {done.way}")
        name = done.path.name
        self.kept.excused.add(name)
        if kind_of(root, done.path) == "library":
            self.kept.excused.add(f"{name.partition('.')[0]}.json")
        self._finish()
        return True

    def _fill(self, fault: Fault, what: str) -> bool:
        ballast = self.storage / "ballast"
        with ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        if self.driver is not None:
            wait(self.driver, 60)
            self._ended(self.driver)
        ballast.write_bytes(bytes(BALLAST_BYTES))
        return True

    def _jump(self, fault: Fault, what: str) -> bool:
        days = Random(fault.choice).choice((-400, -2, -1, 1, 30))
        self._offset.write_text(f"{days * DAY_S:+d}")
        return True

    def _proxied(self, fault: Fault, what: str) -> bool:
        proxy = self.services.proxies[what]
        slow = fault.name.startswith("slow")
        proxy.set(f"{fault.choice * 0.5:.3f}" if slow else "reset")
        if self.driver is not None:
            wait(self.driver, fault.seconds)
        proxy.set("pass")
        return True

    def _finish(self) -> None:
        """Give the same command until the search has finished, doing what its messages say."""
        for _ in range(LAUNCHES):
            driver = self.driver or self._start()
            self.driver = None
            code = wait(driver, FINISH_S)
            if code is None:
                self.tally.hangs += 1
                kill(driver)
                raise RuntimeError(f"it goes on and on: {self.search.output[-1500:]}")
            words = self._judge(code)
            if code == 0:
                if not [*self.search.storage.outbox.glob("*.json")]:
                    return
                continue  # records that MLflow has not received: the next launch delivers them
            self._mend(words)
        self.tally.hangs += 1
        raise RuntimeError(f"not finished after {LAUNCHES} launches: {words}")

    def _mend(self, words: str) -> None:
        """Do what a message says about a file that was damaged."""
        for done in reversed(self.damages):
            if helped := remedy(words, done):
                self.tally.named += 1
                self.tally.log.append(f"remedy: {helped}")
                self.damages.remove(done)
                # A result that was deleted as the message says has to be there again.
                self.kept.excused |= {*re.findall(r"evaluations/(\S+\.json)", words)}
                return

    def _checked(self) -> Found:
        end = time.monotonic() + GRACE_S
        while (left := left_over(self.search.folder)) and time.monotonic() < end:
            time.sleep(0.2)
        self.tally.processes_left += len(left)
        expected = self.expected if self.setup.same_front else None
        happened = self.tally.happened
        died = happened.get("kill worker", 0) + happened.get("kill node", 0)
        # A trial whose worker died more often than it is run again counts as failed.
        may_give_up = died > ExecutorSettings().max_failures
        return check(self.places, self.kept, expected, may_give_up=may_give_up)

    def _sweep(self) -> None:
        """End the processes that are left of this cell, by their ids."""
        signalled(left_over(self.folder / "search"), signal.SIGKILL)


def undisturbed(setup: Setup, shared: Path) -> Undisturbed:
    """What the same search comes to without faults, run once and kept in a folder."""
    names = ("space", "sampler", "trials", "search_seed", "rungs")
    chosen = {name: getattr(setup, name) for name in names}
    key = short_hash({**chosen, "library": setup.library != "none"})
    path = shared / f"undisturbed-{key}.json"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            folder = shared / key
            shutil.rmtree(folder, ignore_errors=True)
            plain = Setup(
                "forked", **chosen, parallel=1, study="journal", tracker="lines", disk=False,
                preload="", library="none" if setup.library == "none" else "folder",
            )  # fmt: skip
            search = make_search(plain, folder, ("--tracker", "json-lines"), {}, folder / "theseus")
            began = time.monotonic()
            search.end(search.start())
            seconds = time.monotonic() - began
            found = read_results(search.storage.folder)
            results = {name: (rs[0].kind, dict(rs[0].values)) for name, rs in found.items()}
            whole = Undisturbed(
                results, hashes_of_weights(search.storage.folder),
                front_of(search.storage.folder), seconds,
            )  # fmt: skip
            path.write_text(json.dumps(asdict(whole)))
            shutil.rmtree(folder)
    data = json.loads(path.read_text())
    data["results"] = {name: (kind, values) for name, (kind, values) in data["results"].items()}
    return Undisturbed(**data)


def run_cell(seed: int, number: int, folder: Path, shared: Path) -> dict[str, Any]:
    """One cell; its row."""
    setup, faults = draw(seed, number)
    cell = Cell(setup, faults, folder, shared)
    began = time.monotonic()
    found, error = Found(), ""
    try:
        found = cell.run()
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"[:3000]
    return {
        "seed": seed,
        "cell": number,
        **asdict(setup),
        "seconds": round(time.monotonic() - began, 1),
        **asdict(found),
        **{name: value for name, value in asdict(cell.tally).items() if name != "log"},
        "error": error,
        "log": [line.replace(f"{folder}/", "") for line in cell.tally.log]
        if error or found.total or cell.tally.wrong
        else [],
    }
