"""Real clusters on this machine, for tests and measurements: a Ray head and a second node, on loopback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 90


@dataclass
class RayCluster:
    """A head with one core and as many other nodes with one."""

    address: str
    jobs: str  # url that `ray job submit` asks
    client: str  # url of a driver that is only a client
    folder: Path  # of the sessions; short, for the names of sockets are limited
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Return what a driver needs to find it by `auto`, and to find curate and its tests."""
        root = str(Path(__file__).parents[1])
        found = {**os.environ, "RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}
        # a node of one core keeps one idle worker for a second: tests would wait for processes to start, again and again
        kept = {"RAY_idle_worker_killing_time_threshold_ms": "120000", "RAY_num_workers_soft_limit": "6"}
        own = {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
        return {**found, **kept, **own, "PYTHONPATH": root}

    def add(self, *arguments: str) -> None:
        """Start a node and wait until it has joined."""
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
        log = self.folder / f"node-{len(self.nodes)}.log"
        with log.open("wb") as file:
            full = [*command, "start", "--block", "--num-cpus=1", "--object-store-memory=200000000", *arguments]
            node = subprocess.Popen(full, stdout=file, stderr=file, env=self.environment(), start_new_session=True)
        self.nodes.append(node)
        until = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in (text := log.read_text(errors="replace")):
            assert node.poll() is None and time.monotonic() < until, text
            time.sleep(0.1)

    def join(self) -> None:
        """Start another node of the cluster."""
        self.add(f"--address={self.address}", "--node-ip-address=127.0.0.1")

    def stop(self, number: int) -> None:
        """End a node and everything that it started, as a machine that goes down would."""
        node = self.nodes[number]
        for pid in _tree(node.pid):
            _kill(pid)
        node.wait()


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start a head and a second node, a core each; `ray stop` would end every other Ray of the machine too."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as name:
        folder, port, dashboard, client = Path(name), free_port(), free_port(), free_port()
        (folder / "token").write_text(os.urandom(32).hex())
        cluster = RayCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}", folder)
        here = "--node-ip-address=127.0.0.1"
        try:
            ports = (f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")
            cluster.add("--head", here, f"--temp-dir={name}", *ports)
            cluster.join()
            yield cluster
        finally:
            for number in reversed(range(len(cluster.nodes))):
                cluster.stop(number)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = re.match(r"(\d+) \(.*\) \S (\d+) ", path.read_text(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if found:
            parents.setdefault(int(found[2]), []).append(int(found[1]))
    tree = [pid]
    for one in tree:
        tree += parents.get(one, [])
    return tree


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
