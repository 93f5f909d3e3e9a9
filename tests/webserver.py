"""Web servers on the loopback for tests: a real nginx over a folder, and one that does everything wrong."""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx (on Debian and Ubuntu: apt-get install nginx-light)")

_CONFIG = """
{user} daemon off; pid {work}/pid; error_log {work}/error.log error; worker_processes 1; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  types {{ image/jpeg jpg; image/png png; text/html html; text/plain txt; application/json json; }}
  access_log {access}; sendfile on; keepalive_requests 100000;
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u;
  scgi_temp_path {work}/s;
  server {{ listen {port} backlog=4096; root {root}; {more} }}
}}
"""


@contextmanager
def nginx(root: Path, work: Path, more: str = "", *, log: bool = True) -> Iterator[int]:
    """Serve a folder on all addresses of the loopback; give the port. Requests stand in work/access.log."""
    assert NGINX is not None
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""  # else its worker may not enter the folders of a test
    access = f"{work}/access.log" if log else "off"
    (work / "nginx.conf").write_text(_CONFIG.format(user=user, work=work, port=port, root=root, more=more, access=access))
    process = subprocess.Popen([NGINX, "-c", str(work / "nginx.conf"), "-p", str(work)], stderr=subprocess.PIPE)
    try:
        _listening(process, port)
        yield port
    finally:
        process.terminate()
        process.communicate()


def _listening(process: subprocess.Popen[bytes], port: int) -> None:
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, process.communicate()[1]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def requests(work: Path) -> list[str]:
    """Return the paths that nginx was asked for."""
    return [line.split('"')[1].split()[1] for line in (work / "access.log").read_text().splitlines()]


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """Answers each path as the test says; counts requests, and connections at once by the address that was asked."""

    def __init__(self, answers: dict[str, bytes | Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answers, self._tls = answers, tls
        self.asked: Counter[str] = Counter()
        self.heads: list[bytes] = []
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.port = 0

    def __enter__(self) -> Hostile:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()

    def _run(self, started: threading.Event) -> None:
        self._task = self._loop.create_task(self._serve(started))
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(BaseException):
                self._loop.run_until_complete(task)

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "0.0.0.0", 0, ssl=self._tls, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            path = head.split()[1].decode()
            self.asked[path] += 1
            self.now[host] += 1
            self.most[host] = max(self.most[host], self.now[host])
            answer = self.answers.get(path.partition("?")[0], b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            if isinstance(answer, bytes):
                await asyncio.sleep(0)
                writer.write(answer)
            else:
                await answer(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.now[host] -= 1
            writer.close()


def page(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return an answer; its length is that of the body unless another is told."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server's context whose certificate nobody trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(begin).not_valid_after(begin.replace(year=2090))
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
