"""How long `curate --help` takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.measure import Figure, at_most, median, rounded, seconds_of

REPEATS = 10


def run() -> list[Figure]:
    """Take the median of ten."""
    command = [str(Path(sys.executable).with_name("curate")), "--help"]
    walls = [seconds_of(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(REPEATS)]
    return [at_most("help", median(walls), "s", 0.3, {"walls": rounded(walls)})]
