"""Time limits of tests: pytest-timeout decides when, this interrupts.

pytest-timeout's own ways do not fit: its timer is the one that curate.core.watchdog sets while an image is decoded, and to
end the process would leave the daemons of a cluster behind. So a thread waits, and a signal fails the one test, whose
fixtures then end what they started. A test in native code that never comes back ends the process.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from typing import Any

import pytest
import pytest_timeout

CLUSTER_SECONDS = 900
"""What a test of a cluster may take: it starts daemons and JVMs. The limit of the others is in pyproject.toml."""

GRACE_SECONDS = 30
"""After its limit a test has this long to come back to Python."""

_DONE = pytest.StashKey[threading.Event]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of clusters their limit, where they set none."""
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CLUSTER_SECONDS))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Begin to wait for the end of a test."""
    done = item.stash[_DONE] = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(*_: object) -> None:
        if not done.is_set():
            pytest_timeout.dump_stacks(item.config.get_terminal_writer())
            pytest.fail(f"it took more than {settings.timeout:g} seconds")

    def wait() -> None:
        if not done.wait(settings.timeout):
            signal.pthread_kill(main, signal.SIGUSR1)

    faulthandler.dump_traceback_later(settings.timeout + GRACE_SECONDS, exit=True)  # even where the interpreter is held
    signal.signal(signal.SIGUSR1, interrupt)
    threading.Thread(target=wait, daemon=True).start()
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """End the wait, if there is one: a module that cannot be collected comes here too."""
    if (done := item.stash.get(_DONE, None)) is not None:
        faulthandler.cancel_dump_traceback_later()
        done.set()
    return True
