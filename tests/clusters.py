"""Real clusters on this machine, for tests and measurements: Ray's and Spark's, of two nodes, on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
START_SECONDS = 90
LIGHT = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Options of a JVM that starts soon and runs slower."""


@dataclass
class Cluster:
    """Nodes, each with what it started."""

    folder: Path  # short, for the names of sockets are limited
    address: str
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Return what a driver needs to find it, and to find curate and its tests."""
        raise NotImplementedError

    def join(self) -> None:
        """Start another node and wait until it has joined."""
        raise NotImplementedError

    def stop(self, number: int) -> None:
        """End a node and everything that it started, as a machine that goes down would."""
        node = self.nodes[number]
        for pid in _tree(node.pid):
            _kill(pid)
        node.wait()

    def stop_all(self) -> None:
        """End all nodes."""
        for number in reversed(range(len(self.nodes))):
            self.stop(number)

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start a node."""
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as file:
            self.nodes.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True))

    def wait(self, number: int, ready: str) -> None:
        """Wait until a node says that it is ready."""
        log, until = self.folder / f"node-{number}.log", time.monotonic() + START_SECONDS
        while ready not in (text := log.read_text(errors="replace")):
            assert self.nodes[number].poll() is None and time.monotonic() < until, text
            time.sleep(0.1)


@dataclass
class RayCluster(Cluster):
    """A head with one core and as many other nodes with one."""

    jobs: str = ""  # url that `ray job submit` asks
    client: str = ""  # url of a driver that is only a client

    def environment(self) -> dict[str, str]:
        found = {**os.environ, "RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}
        # a node of one core keeps one idle worker for a second: tests would wait for processes to start, again and again
        kept = {"RAY_idle_worker_killing_time_threshold_ms": "120000", "RAY_num_workers_soft_limit": "6"}
        own = {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
        return {**found, **kept, **own, "PYTHONPATH": ROOT}

    def add(self, *arguments: str) -> None:
        """Start a node and wait until it has joined."""
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
        full = [*command, "start", "--block", "--num-cpus=1", "--object-store-memory=200000000", *arguments]
        self.start(full, self.environment())
        self.wait(len(self.nodes) - 1, "Ray runtime started")

    def join(self) -> None:
        self.add(f"--address={self.address}", "--node-ip-address=127.0.0.1")


@dataclass
class SparkCluster(Cluster):
    """A standalone master and workers, each at an address of its own; each takes one Spark task of each of two applications.

    Every worker claims a GPU, number 0, for applications that ask for one.
    """

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SPARK_HOME": spark_home(),
            "SPARK_CONF_DIR": str(self.folder),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYTHONPATH": ROOT,
        }

    def configure(self) -> None:
        """Write what applications and workers find in SPARK_CONF_DIR."""
        script = self.folder / "gpus.sh"
        script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0"]}'\n""")
        script.chmod(0o755)
        conf = {
            "spark.master": self.address,
            "spark.cores.max": "2",
            "spark.executor.cores": "1",
            "spark.executor.memory": "512m",
            "spark.ui.enabled": "false",
            "spark.driver.extraJavaOptions": LIGHT,
            "spark.executor.extraJavaOptions": LIGHT,
            "spark.worker.resource.gpu.amount": "1",
            "spark.worker.resource.gpu.discoveryScript": str(script),
        }
        (self.folder / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in conf.items()))

    def add(self, kind: str, *arguments: str) -> None:
        """Start a Master or a Worker."""
        folder = self.folder / f"work-{len(self.nodes)}"
        own = {"SPARK_LOCAL_DIRS": str(folder), "SPARK_WORKER_DIR": str(folder), "SPARK_DAEMON_MEMORY": "256m"}
        own["SPARK_DAEMON_JAVA_OPTS"] = LIGHT
        host = f"127.0.0.{len(self.nodes) + 1}"  # Spark tries a straggler again on another host only
        command = [f"{spark_home()}/bin/spark-class", f"org.apache.spark.deploy.{kind.lower()}.{kind}", "--host", host]
        self.start([*command, "--webui-port", "0", *arguments], {**self.environment(), **own, "SPARK_LOCAL_IP": host})

    def join(self, workers: int = 1) -> None:
        for _ in range(workers):
            self.add("Worker", "--cores", "2", "--memory", "1g", self.address)
        for number in range(len(self.nodes) - workers, len(self.nodes)):
            self.wait(number, "Successfully registered with master")


def has_java() -> bool:
    """Return whether Spark can start."""
    return shutil.which("java") is not None or "JAVA_HOME" in os.environ


def spark_home() -> str:
    """Return the folder of pyspark's own Spark."""
    found = find_spec("pyspark")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent)


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start a head and a second node, a core each; `ray stop` would end every other Ray of the machine too."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as name:
        port, dashboard, client = free_port(), free_port(), free_port()
        (Path(name) / "token").write_text(os.urandom(32).hex())
        urls = f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}"
        cluster = RayCluster(Path(name), f"127.0.0.1:{port}", [], *urls)
        try:
            ports = (f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")
            cluster.add("--head", "--node-ip-address=127.0.0.1", f"--temp-dir={name}", *ports)
            cluster.join()
            yield cluster
        finally:
            cluster.stop_all()


@contextmanager
def spark_cluster() -> Iterator[SparkCluster]:
    """Start a master and two workers."""
    with tempfile.TemporaryDirectory(prefix="spark-", dir="/tmp", ignore_cleanup_errors=True) as name:
        port = free_port()
        cluster = SparkCluster(Path(name), f"spark://127.0.0.1:{port}")
        cluster.configure()
        try:
            cluster.add("Master", "--port", str(port))
            cluster.wait(0, "New state: ALIVE")
            cluster.join(2)
            yield cluster
        finally:
            cluster.stop_all()


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
