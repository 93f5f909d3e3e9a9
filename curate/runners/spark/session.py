"""A Spark session: the one of this process, or spark-submit's, or a new one that starts and ends without log output."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from curate.core.errors import RunnerError

ERRORS = (Py4JError, PySparkException, OSError)
"""The errors that Spark raises in the driver."""

TRACEBACK = "Traceback (most recent call last)"
"""Part of the error where Spark's workers could not run Python code."""

_REACH_SECONDS = 10.0
_UNNAMED = (None, "pyspark-shell", "PySparkShell")
_WAITING = "org.apache.spark.scheduler.TaskSchedulerImpl"  # warns while an application gets no cores
_UP, _DOWN = "curate: Spark is up", "curate: Spark is going down"  # printed by our JVM for this process, not passed on


@contextmanager
def session(master: str | None) -> Iterator[SparkSession]:
    """Yield the session of this process, or open one at `master`, else where spark-submit or Spark's configuration says.

    Raises RunnerError with a message of one line when there is none.
    """
    if "SPARK_REMOTE" in os.environ:
        raise RunnerError("--runner spark does not run through Spark Connect: unset SPARK_REMOTE and use --master")
    found = SparkSession.getActiveSession()
    if found is not None:
        _check_same(found.sparkContext.master, master)
        yield found
        return
    opened = _opened(master)
    try:
        yield opened
    finally:
        with suppress(*ERRORS):  # where the JVM is gone, whatever used it has raised already
            _mark(SparkContext._gateway, _DOWN)
            opened.stop()


def one_line(error: Exception) -> str:
    """Return one line of Spark's many: the error of Python code, else what Spark calls the most recent failure.

    >>> one_line(ValueError("An error occurred while calling o1.x.\\n: java.io.IOException: no\\n\\tat a.b(C.java:1)"))
    'java.io.IOException: no'
    >>> one_line(ValueError(f"Lost task: {TRACEBACK}:\\n  File x.py\\nImportError: no y\\n\\tat a.b(C.java:1)"))
    'ImportError: no y'
    """
    text = str(error)
    raised = text.partition(TRACEBACK)[2].splitlines()[1:]
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    cause = next((line[2:] for line in lines if line.startswith(": ")), lines[0])
    return next((line for line in raised if line and not line[0].isspace()), cause.rpartition("most recent failure: ")[2])


def _opened(master: str | None) -> SparkSession:
    if master is not None:
        _reach(master)
    gateway = SparkContext._gateway or _launched(master)
    try:
        conf = SparkConf(_jvm=gateway.jvm)
        return SparkSession(_context(gateway, conf, master))
    except (*ERRORS, TypeError) as error:  # TypeError: the context's Java side could not be created
        raise RunnerError(f"no Spark at {master or 'the configured master'}: {one_line(error)}") from None


def _context(gateway: Any, conf: SparkConf, master: str | None) -> SparkContext:
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        _check_same(conf.get("spark.master"), master)
    elif master is not None:
        conf.setMaster(master)
    where = conf.get("spark.master") or ""
    _reach(where)
    if conf.get("spark.app.name") in _UNNAMED:
        conf.setAppName("curate")
    conf.set("spark.ui.showConsoleProgress", "false")  # curate shows its own
    if where.startswith(("local", "spark://")):  # on others this path would be on another machine
        os.environ.setdefault("PYSPARK_PYTHON", conf.get("spark.pyspark.python") or sys.executable)
    context = SparkContext(conf=conf, gateway=gateway)
    if conf.get("spark.log.level") is None:
        context.setLogLevel("ERROR")
        gateway.jvm.org.apache.logging.log4j.core.config.Configurator.setLevel(_WAITING, "WARN")
    _mark(gateway, _UP)
    return context


def _launched(master: str | None) -> Any:
    """Return the gateway to a new JVM, or to spark-submit's. Raises RunnerError where no Java can run Spark."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return launch_gateway()
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java" if home is None else os.path.join(home, "bin", "java")) is None:
        where = "on the PATH, and no JAVA_HOME" if home is None else f"in JAVA_HOME={home}"
        raise RunnerError(f"--runner spark needs Java 17, and there is no java {where} (Debian: openjdk-17-jre-headless)")
    errors = _StandardError()
    conf = SparkConf(loadDefaults=False)
    with closing(errors):
        try:
            gateway = launch_gateway(conf if master is None else conf.setMaster(master), {"stderr": errors.write})
        except PySparkException as error:
            last = next((line for line in reversed(errors.ended()) if line.strip()), str(error))
            raise RunnerError(f"Spark does not start: {last.strip()}") from None
    _read.append(gateway)
    return gateway


_read: list[Any] = []
"""Gateways to the JVMs whose standard error this process reads."""


def _mark(gateway: Any, line: str) -> None:
    if gateway in _read:
        gateway.jvm.System.err.println(line)


class _StandardError:
    """Standard error of a JVM: passed on while Spark is up, kept while it starts, dropped while it ends."""

    def __init__(self) -> None:
        read, self.write = os.pipe()
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Close this process's copy of the writing end."""
        if self.write >= 0:
            os.close(self.write)
            self.write = -1

    def ended(self) -> list[str]:
        """Return the lines of a JVM that has ended."""
        self.close()
        self._reader.join()
        return self._lines

    def _read(self, descriptor: int) -> None:
        up = False
        with open(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip() in (_UP, _DOWN):
                    up = line.strip() == _UP
                elif up:
                    sys.stderr.write(line)
                else:
                    self._lines.append(line)


def _check_same(current: str | None, master: str | None) -> None:
    if master is not None and master != current:
        raise RunnerError(f"--master {master}: this is inside a Spark application at {current}; leave --master out")


def _reach(master: str) -> None:
    """Raise RunnerError where no standalone master answers: Spark itself would retry for a minute."""
    if not master.startswith("spark://"):
        return
    refused: Exception | None = None
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), _REACH_SECONDS).close()
        except (OSError, ValueError) as error:
            refused = error
        else:
            return
    raise RunnerError(f"no Spark master at {master}: {refused}")
