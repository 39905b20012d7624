"""Debian's Chromium for tests, servers beside it, and the pictures that tests take of pages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

# Folder for pictures of the pages that tests open; none are taken without it.
SCREENSHOTS = "NAS_THESEUS_SCREENSHOTS"
PHONE, DESKTOP = (390, 844), (1280, 800)
# A busy machine with two cores.
START_S = 120


def wait_for(reached: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    """Wait until something is reached; else fail and say what there is instead."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


@dataclass
class Browser:
    """Chromium, as a person uses it who has one window.

    Attributes:
        driver: selenium's.
    """

    driver: Any

    def resize(self, size: tuple[int, int], dark: bool = False) -> None:
        """A screen of this many pixels, whose owner prefers light or dark pages."""
        width, height = size
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        self.messages(), self.requests()  # those of the page before
        self.driver.get(address)

    def run(self, script: str, *arguments: object) -> Any:
        """What a function's body returns in the page."""
        return self.driver.execute_script(script, *arguments)

    @property
    def text(self) -> str:
        """What a reader sees."""
        return str(self.run("return document.body.innerText"))

    def wait(self, reached: Callable[[], bool], seconds: float = 60) -> None:
        wait_for(reached, seconds, lambda: f"the page shows:\n{self.text}")

    def press(self, *keys: str) -> None:
        """Keys, such as ``Tab`` or ``Enter``, wherever the focus is."""
        from selenium.webdriver import ActionChains, Keys

        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(getattr(Keys, key.upper()))
        chain.perform()

    def messages(self) -> list[str]:
        """Warnings and errors on the console since the last call."""
        found = self.driver.get_log("browser")
        return [one["message"] for one in found if one["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Addresses of everything that pages asked for since the last call, themselves included."""
        events = (
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        )
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def picture(self, name: str) -> None:
        """Save what the window shows as ``name.png``, if pictures are wanted."""
        if folder := os.environ.get(SCREENSHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def _devtools(self, command: str, **parameters: object) -> None:
        self.driver.execute_cdp_cmd(command, parameters)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window on the screen; skips the test where it is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1500,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The driver's path is given, so selenium looks for none, here or elsewhere.
    # Selenium reads its longest wait, two minutes, anew only for connections that are not kept.
    made = webdriver.Chrome(options=options, service=service.Service(driver), keep_alive=False)
    made.command_executor.client_config.timeout = 4 * START_S
    made.set_page_load_timeout(4 * START_S)
    made.set_script_timeout(4 * START_S)
    try:
        yield Browser(made)
    finally:
        made.quit()


def free_port() -> int:
    """A port on loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(command: Sequence[str], address: str, log: Path,
           environment: Mapping[str, str] | None = None) -> Iterator[str]:  # fmt: skip
    """A server that answers at an address; it and its children end with the block."""

    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"{command[0]} ended with {process.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(address, timeout=1):
                return True
        except OSError:
            return False

    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=None if environment is None else dict(environment),
        )  # fmt: skip
    try:
        wait_for(answers, START_S, lambda: f"{address} does not answer:\n{log.read_text()}")
        parts = urlsplit(address)
        yield f"{parts.scheme}://{parts.netloc}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
