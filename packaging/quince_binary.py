"""What the single-file binary runs.

PyInstaller's launcher unpacks the files, starts this as its child, waits for it and removes the files again. A launcher
that is killed can do neither: then this process ends itself, as it would at SIGTERM, and removes them.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time

from quince import children

LOOK_EVERY = 0.5  # seconds


def watch_launcher() -> None:
    """Only in the process that the launcher waits for: those that we start share its files, and have other parents."""
    launcher = os.getppid()
    unpacked = sys._MEIPASS  # type: ignore[attr-defined]  # PyInstaller's

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(LOOK_EVERY)
        atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            shutil.rmtree(unpacked, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


if __name__ == "__main__":
    multiprocessing.freeze_support()  # libraries that use it start this file again, too
    if os.environ.get("_PYI_PARENT_PROCESS_LEVEL") == "1":
        watch_launcher()
    children.main()
