"""A proxy between a test and a server: passes requests on, and counts them with the bytes of their answers."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Asked(NamedTuple):
    """A request, and how many bytes its answer had."""

    method: str
    path: str
    size: int


class Forwarding(BaseHTTPRequestHandler):
    """Passes requests on."""

    server: Proxy
    protocol_version = "HTTP/1.1"  # clients wait for a word before they send a body

    def answer(self) -> None:
        self.forward(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_GET(self) -> None:
        self.answer()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def forward(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        connection.request(self.command, self.path, body, headers)
        found = connection.getresponse()
        data = found.read()
        self.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = found.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.server.asked.append(Asked(self.command, self.path, len(data)))
        if self.command != "HEAD":
            self.wfile.write(data)
        connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Proxy(ThreadingHTTPServer):
    """A server of the loopback that passes requests on to `target`."""

    daemon_threads = True

    def __init__(self, target: str, handler: type[Forwarding] = Forwarding) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.target, self.numbers = target.removeprefix("http://"), itertools.count()
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def got(self, path: str) -> list[Asked]:
        """Return the GET requests for objects whose path holds `path`, not of listings."""
        return [asked for asked in self.asked if asked.method == "GET" and path in asked.path and "list-type" not in asked.path]


@contextmanager
def proxy(target: str, handler: type[Forwarding] = Forwarding) -> Iterator[Proxy]:
    """Run a proxy for the time of the block."""
    with Proxy(target, handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
