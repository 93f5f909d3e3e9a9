"""What this machine offers, on every operating system that Python runs on."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the number of cores that this process may use; all of the machine's where the system cannot restrict it."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
