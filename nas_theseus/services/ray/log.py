"""Ray's messages in the driver go to a file, not to the terminal."""

from __future__ import annotations

import logging
from pathlib import Path


class _Log(logging.FileHandler):
    """Log handler that ignores write errors; a full disk is reported when results are saved."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing."""


def divert_logging(path: Path) -> None:
    """Send Python messages of Ray's driver side to a file; Ray gives several loggers a handler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _Log(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in [*logging.root.manager.loggerDict, "ray"]:
        if name.partition(".")[0] == "ray":
            logger = logging.getLogger(name)
            for earlier in logger.handlers:
                if isinstance(earlier, logging.FileHandler):
                    earlier.close()  # of an earlier search in this process
            logger.handlers = [handler] if name == "ray" else []
            logger.propagate = name != "ray"
    logging.getLogger("ray").setLevel(logging.INFO)
