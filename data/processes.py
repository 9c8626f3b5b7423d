"""A process, and nobody else under its number.

In:  a process number. Out: what it is known by, as JSON; whether it is still there; signals to it.

Numbers are given again, so a process is known by its number and the time it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path


def identity(pid: int) -> dict:
    """What a process is known by."""
    return {"pid": pid, "started": _started(pid)}


def runs(process: dict | None) -> bool:
    """Whether the very process is still there; one that ended but was not waited for is not."""
    if process is None:
        return False
    started = _started(process["pid"])
    return started is not None and started == process["started"]


def send(process: dict, number: int) -> bool:
    """Sends a signal to the very process; False if it is gone."""
    try:
        handle = os.pidfd_open(process["pid"])  # from here on the number cannot pass to another
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # not on this system
        handle = None
    try:
        if not runs(process):
            return False
        if handle is None:
            os.kill(process["pid"], number)
        else:
            signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)


def _started(pid: int) -> str | None:
    """When a process started, by this machine's clock since this boot; None if it is gone."""
    if not Path("/proc/self/stat").exists():
        return _started_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, IndexError):
        return None
    return None if stat[0] in "ZX" else f"{boot}/{stat[19]}"


def _started_by_ps(pid: int) -> str | None:
    """The same on systems without /proc."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    told = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return None if not told or told[0].startswith("Z") else " ".join(told[1:])
