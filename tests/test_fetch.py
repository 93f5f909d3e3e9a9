"""The downloader against a real nginx and a hostile server on the loopback."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import ipaddress
import multiprocessing
import sys
import zlib

import brotli
import pytest
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from curate.core.errors import InputError
from curate.fetch import ERRORS, FetchPolicy, FetchRequest, FetchResult, fetch, host_limits
from curate.fetch.addresses import networks_of, permitted
from curate.fetch.client import ResolverFactory, retry_after
from curate.fetch.crawl import crawl
from curate.fetch.errors import FetchError
from curate.fetch.host_limits import BUSY, HostLimits, Slot
from curate.fetch.opt_outs import Rules, covers, opted_out, parse_robots, parse_tdmrep
from curate.fetch.preflight import check_ready
from curate.fetch.urls import host_of, parse_url, redirect_target
from tests.running import jpeg
from tests.webserver import Hostile, needs_nginx, nginx, page, requests, self_signed

LOOPBACK = ("127.0.0.0/8",)
CONTACT = "https://example.org/crawl"


def policy(**changed: object) -> FetchPolicy:
    """Return a policy for the loopback, without any waiting."""
    defaults: dict[str, object] = {
        "contact": CONTACT, "networks": LOOPBACK, "rate": 0.0, "timeout": 5.0, "retries": 0, "robots": False, "tdm": False,
    }  # fmt: skip
    return FetchPolicy(**{**defaults, **changed})  # type: ignore[arg-type]


def came(urls: list[str], chosen: FetchPolicy, resolver: ResolverFactory = ThreadedResolver) -> dict[str, str | bytes]:
    """Return what came of each url: bytes or a code."""
    found = {}
    for got in crawl([FetchRequest(row, url) for row, url in enumerate(urls)], chosen, resolver):
        if got is None:
            continue
        assert (got.error is None) != (got.body is None) and got.row not in found
        found[got.row] = got.error or got.body
    assert sorted(found) == list(range(len(urls)))
    assert all(code in ERRORS or code.startswith("http_") for code in found.values() if isinstance(code, str))
    return {url: found[row] for row, url in enumerate(urls)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Serve 40 pictures and a page by nginx; give the folder of its log, and its port."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "root").mkdir()
    for seed in range(40):
        (folder / "root" / f"{seed}.jpg").write_bytes(jpeg(seed))
    (folder / "root" / "page.html").write_text("<html><body>no picture</body></html>")
    with nginx(folder / "root", folder / "work") as port:
        yield folder, port


# A real server -------------------------------------------------------------------------------------------------------------


@needs_nginx
def test_every_image_comes_whole(site):
    _, port = site
    urls = [f"http://127.0.0.{1 + n % 7}:{port}/{n}.jpg" for n in range(40)] + [f"http://127.0.0.1:{port}/none.jpg"]
    found = came(urls, policy())
    assert found.pop(urls[-1]) == "http_404"
    assert found == {url: jpeg(n) for n, url in enumerate(urls[:-1])}


@needs_nginx
def test_img2dataset_gives_the_same(site, tmp_path):
    _, port = site
    urls = [f"http://127.0.0.1:{port}/{name}" for name in (*(f"{n}.jpg" for n in range(5)), "none.jpg", "page.html")]
    urls += ["http://127.0.0.1:1/refused.jpg", "ftp://127.0.0.1/a.jpg"]
    chosen = policy(engine="img2dataset")
    answers = fetch([FetchRequest(n, url) for n, url in enumerate(urls)], chosen)
    found = {urls[got.row]: got.error or got.body for got in answers if got is not None}
    assert found == came(urls, policy())
    assert list(found.values()).count("http_404") == 1 and found[urls[0]] == jpeg(0)


def test_an_img2dataset_that_dies_is_reported(tmp_path):
    from curate.fetch.img2dataset import fetch_with_img2dataset

    dying = ("-c", "raise SystemExit(1)")
    answers = fetch_with_img2dataset([FetchRequest(3, "http://127.0.0.1:1/a")], policy(), dying)
    assert [got for got in answers if got is not None] == [FetchResult(3, "engine_failed", None)]


@needs_nginx
def test_the_request_that_a_site_gets(site):
    with Hostile({"/a.jpg": page(jpeg(1))}) as server:
        came([f"http://user:secret@127.0.0.1:{server.port}/a.jpg#part"], policy())
        [head] = server.heads
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "get /a.jpg http/1.1"
    assert any(line.startswith("user-agent: curate/") and line.endswith(f"(+{CONTACT})") for line in lines)
    assert not [line for line in lines if line.startswith(("authorization", "cookie", "referer"))]


@needs_nginx
def test_half_of_an_answer_can_be_left(site):
    _, port = site
    answers = crawl([FetchRequest(n, f"http://127.0.0.1:{port}/{n}.jpg") for n in range(40)], policy())
    assert next(answers).error is None
    answers.close()


# A server that does everything wrong ---------------------------------------------------------------------------------------


async def drip(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"\xff")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await writer.drain()


async def headers_without_end(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"a" * 1000 + b"\r\n")
        await writer.drain()


async def nothing(reader, writer):
    writer.close()


async def silence(reader, writer):
    await asyncio.sleep(3600)


def redirect(where: str) -> bytes:
    return page(b"", f"Location: {where}", status="302 Found")


VAST = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" + bytes(40)

HOSTILE = {
    "/drip": (drip, "timeout"),
    "/silence": (silence, "timeout"),
    "/endless": (endless, "too_large"),
    "/announced": (page(b"", length=10**12), "too_large"),
    "/short": (page(jpeg(1)[:500], length=5000), "truncated"),
    "/chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n7", "truncated"),
    "/html": (page(b"<!DOCTYPE html><html>you are a robot</html>", "Content-Type: image/jpeg"), "not_image"),
    "/empty": (page(b""), "empty"),
    "/loop": (redirect("/loop"), "too_many_redirects"),
    "/file": (redirect("file:///etc/passwd"), "bad_url"),
    "/nowhere": (page(b"", status="302 Found"), "bad_url"),
    "/elsewhere": (redirect("http://127.9.9.9/a.jpg"), "private_address"),
    "/metadata": (redirect("http://169.254.169.254/latest/meta-data"), "private_address"),
    "/decimal": (redirect("http://2851995902/"), "bad_url"),
    "/bomb": (page(gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"), "too_large"),
    "/brotli": (page(b"\xff" * 100, "Content-Encoding: br"), "bad_encoding"),
    "/nogzip": (page(b"abcdefgh", "Content-Encoding: gzip"), "bad_encoding"),
    "/unknown": (page(b"abcdefgh", "Content-Encoding: utf-8"), "bad_encoding"),
    "/half": (page(gzip.compress(jpeg(5))[:-20], "Content-Encoding: gzip"), "truncated"),
    "/brotlibomb": (page(brotli.compress(bytes(50_000_000)), "Content-Encoding: br"), "too_large"),
    "/halfbrotli": (page(brotli.compress(jpeg(5))[:-20], "Content-Encoding: br"), "truncated"),
    "/part": (page(jpeg(1)[:900], "Content-Range: bytes 0-899/9000", status="206 Partial"), "truncated"),
    "/choices": (page(b"<html>one or the other</html>", status="300 Choose"), "http_300"),
    "/accepted": (page(jpeg(1), status="202 Later"), "http_202"),
    "/noai": (page(jpeg(2), "X-Robots-Tag: noindex", "X-Robots-Tag: NoAI"), "noai"),
    "/tdm": (page(jpeg(2), "TDM-Reservation: 1"), "tdm_reserved"),
    "/long": (page(jpeg(4) + b"rest", length=len(jpeg(4))), "bad_answer"),
    "/garbage": (b"SSH-2.0-OpenSSH_9.0\r\n\r\n", "bad_answer"),
    "/headers": (headers_without_end, "bad_answer"),
    "/nothing": (nothing, "connect"),
    "/gone": (page(b"", status="410 Gone"), "http_410"),
    "/broken": (page(b"", status="500 Oh"), "http_500"),
    "/pixels": (page(VAST), "too_many_pixels"),
}
GOOD = {
    "/good.jpg": page(jpeg(3)),
    "/moved": redirect("/good.jpg"),
    "/zipped": page(gzip.compress(jpeg(5)), "Content-Encoding: gzip"),
    "/deflated": page(zlib.compress(jpeg(6)), "Content-Encoding: deflate"),
    "/raw": page(zlib.compress(jpeg(6), wbits=-15), "Content-Encoding: deflate"),
    "/brotlied": page(brotli.compress(jpeg(5)), "Content-Encoding: br"),
    "/liar": page(jpeg(5), "Content-Encoding: gzip"),
    "/none": page(jpeg(5), "Content-Encoding: none"),
    "/utf8": page(jpeg(5), "Content-Encoding: UTF-8"),
    "/proxied": page(jpeg(5), status="203 Changed"),
    "/whole": page(jpeg(5), f"Content-Range: bytes 0-{len(jpeg(5)) - 1}/{len(jpeg(5))}", status="206 Partial"),
    "/chosen": page(jpeg(5), status="300 Choose"),
    "/wrongtype": page(jpeg(7), "Content-Type: text/html"),
    "/others": page(jpeg(8), "X-Robots-Tag: otherbot: noai, noimageai", "X-Robots-Tag: unavailable_after: 2030-01-01"),
    "/early": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + page(jpeg(9)),
}


def test_each_evil_has_its_name_and_the_good_come_all_the_same():
    answers = {path: answer for path, (answer, _) in HOSTILE.items()} | GOOD
    chosen = policy(networks=("127.0.0.1/32",), timeout=1.0, max_bytes=1_000_000, tdm=False, per_host=1000)
    with Hostile(answers) as server:
        base = f"http://127.0.0.1:{server.port}"
        found = came([base + path for path in answers], chosen)
    wrong = {path: code for path, (_, code) in HOSTILE.items() if found[base + path] != code and path != "/tdm"}
    assert {path: found[base + path] for path in wrong} == wrong
    assert [path for path in GOOD if not isinstance(found[base + path], bytes)] == []
    assert {found[base + path] for path, answer in GOOD.items() if jpeg(5) in answer} == {jpeg(5)}
    assert [found[base + path] for path in ("/zipped", "/brotlied")] == [jpeg(5)] * 2
    assert [found[base + path] for path in ("/deflated", "/raw")] == [jpeg(6)] * 2


def test_cookies_of_the_way_are_shown_there_and_nowhere_else():
    asked = []

    async def guarded(reader, writer):
        asked.append([line for line in server.heads[-1].split(b"\r\n") if line.startswith(b"Cookie")])
        writer.write(
            page(jpeg(1)) if asked[-1] else page(b"", "Location: /gate", "Set-Cookie: seen=1; Path=/", status="302 Found")
        )

    with Hostile({"/gate": guarded, "/other": redirect("/gate")}) as server:
        base = f"http://127.0.0.1:{server.port}"
        found = came([base + "/gate", base + "/other"], policy(networks=("127.0.0.1/32",), per_host=1))
    assert set(found.values()) == {jpeg(1)}
    assert sorted(asked) == [[], [], [b"Cookie: seen=1"], [b"Cookie: seen=1"]]


def test_an_image_in_its_address_needs_no_request():
    packed = base64.b64encode(jpeg(1)).decode()
    found = came([f"data:image/jpeg;base64,{packed}", f" DATA:;base64,{packed[:50]}\n{packed[50:]}", "data:,hello"], policy())
    assert list(found.values()) == [jpeg(1), jpeg(1), "not_image"]


def test_addresses_are_read_as_browsers_read_them():
    with Hostile({"/a/b.jpg": page(jpeg(1)), "/there": redirect("\\a\\b.jpg")}) as server:
        host = f"127.0.0.1:{server.port}"
        found = came(
            [f"http:\\\\{host}\\a\\b.jpg", f"//{host}/a/b.jpg", f"http://{host}/there"], policy(networks=("127.0.0.1/32",))
        )
    assert list(found.values()) == [jpeg(1)] * 3


def test_reservations_are_honoured_unless_the_policy_says_otherwise():
    answers = {"/tdm": HOSTILE["/tdm"][0], "/noai": HOSTILE["/noai"][0]}
    with Hostile(answers) as server:
        urls = [f"http://127.0.0.1:{server.port}{path}" for path in answers]
        assert list(came(urls, policy(tdm=True)).values()) == ["tdm_reserved", "noai"]
        assert list(came(urls, policy(tdm=False, opt_out=())).values()) == [jpeg(2), jpeg(2)]


def test_a_certificate_that_nobody_trusts(tmp_path):
    with Hostile({"/a.jpg": page(jpeg(1))}, self_signed(tmp_path)) as server:
        url = f"https://localhost:{server.port}/a.jpg"
        assert came([url], policy())[url] == "tls"


NO_URLS = ["", "no url", "ftp://e.org/a.jpg", "http://", "http:///a", "http://e.org:99999/", "javascript:alert(1)", "http://[::1"]


@pytest.mark.parametrize("url", [*NO_URLS, "data:image/png;base64,AA", "http://\ud800.org/"])
def test_what_is_no_url(url):
    assert came([url], policy())[url] == "bad_url"


@pytest.mark.parametrize("host", ["i❤.example", "☃.example", "a\u2024b.example", "-ä.example", "ab--ä.example"])
def test_host_names_that_idna_2008_refuses_are_bad_urls(host):
    """IDNA 2003, to which yarl falls back, accepts some of them."""
    for url in (f"http://{host}/a.jpg", f"http://user@{host}:81/a.jpg"):
        assert came([url], policy())[url] == "bad_url"
    with pytest.raises(FetchError, match="bad_url"):
        redirect_target(parse_url("http://e.example/"), f"//{host}/b.jpg")


def test_host_names_are_encoded_as_idna_2008_does():
    assert parse_url("http://Straße.example/ä.jpg").raw_host == "xn--strae-oqa.example"  # strasse.example in IDNA 2003
    assert parse_url("http://日本。example/").raw_host == "xn--wgv71a.example"
    assert parse_url("http://xn--i-7iq.example/").raw_host == "xn--i-7iq.example"  # ASCII: DNS has the last word
    assert redirect_target(parse_url("http://e.example/"), "//Straße.example/").raw_host == "xn--strae-oqa.example"


def test_a_host_that_does_not_answer_is_given_up():
    urls = [f"http://127.0.0.1:1/{n}.jpg" for n in range(50)]
    found = list(came(urls, policy(per_host=1)).values())
    assert found.count("connect") == 8 and found.count("host_down") == 42


def test_what_passes_is_asked_again():
    seen = []

    async def second_time(reader, writer):
        seen.append(1)
        writer.write(page(jpeg(1)) if len(seen) > 1 else page(b"", "Retry-After: 0", status="503 Later"))

    with Hostile({"/a.jpg": second_time}) as server:
        url = f"http://127.0.0.1:{server.port}/a.jpg"
        assert came([url], policy(retries=1, timeout=0.1))[url] == jpeg(1)
    assert len(seen) == 2


def test_a_host_that_wants_to_be_asked_much_later_is_not_asked_again():
    with Hostile({f"/{n}": page(b"", "Retry-After: 9999", status="429 Too Many Requests") for n in range(9)}) as server:
        urls = [f"http://127.0.0.3:{server.port}/{n}" for n in range(9)]
        found = list(came(urls, policy(per_host=1, retries=2)).values())
        assert sum(server.asked.values()) == 1
    assert sorted(found) == ["host_down"] * 8 + ["http_429"]


def test_redirects_within_a_host_need_no_second_connection():
    with Hostile({"/good.jpg": page(jpeg(3))} | {f"/{n}": redirect("/good.jpg") for n in range(12)}) as server:
        urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(12)]
        assert set(came(urls, policy(per_host=2, timeout=2.0)).values()) == {jpeg(3)}
        assert server.most["127.0.0.1"] <= 2


def test_what_a_host_does_that_is_led_to_is_not_charged_to_who_leads_there():
    answers = {f"/{n}": redirect("http://127.0.0.2:1/") for n in range(30)} | {f"/good{n}": page(jpeg(n)) for n in range(30)}
    with Hostile(answers) as server:
        urls = [f"http://127.0.0.1:{server.port}{path}" for path in answers]
        found = came(urls, policy(per_host=1))
    assert all(isinstance(answer, bytes) for url, answer in found.items() if "good" in url)
    assert {answer for url, answer in found.items() if "good" not in url} <= {"connect", "host_down"}


def test_redirects_come_before_what_waits_at_their_host():
    with Hostile({f"/{n}": page(jpeg(1)) for n in range(200)}) as target, Hostile({"/a": b""}) as source:
        source.answers["/a"] = redirect(f"http://127.0.0.2:{target.port}/0")
        urls = [f"http://127.0.0.1:{source.port}/a", *(f"http://127.0.0.2:{target.port}/{n}" for n in range(200))]
        wanted = [FetchRequest(n, url) for n, url in enumerate(urls)]
        order = [got.row for got in crawl(wanted, policy(rate=500.0, per_host=1)) if got]
    assert order.index(0) < 100


def test_a_large_image_comes_whole():
    body = jpeg(1) + bytes(3_000_000)
    with Hostile({"/a.jpg": page(body)}) as server:
        url = f"http://127.0.0.1:{server.port}/a.jpg"
        assert came([url], policy())[url] == body


# Policy -------------------------------------------------------------------------------------------------------------------


@needs_nginx
def test_robots_txt_is_asked_for_once_and_honoured(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "robots.txt").write_text("User-agent: *\nDisallow: /\n\nUser-agent: curate\nDisallow: /private*.jpg$\n")
    for name in ("a.jpg", "b.jpg", "private1.jpg"):
        (tmp_path / "root" / name).write_bytes(jpeg(1))
    with nginx(tmp_path / "root", tmp_path / "work") as port:
        urls = [f"http://127.0.0.1:{port}/{name}" for name in ("a.jpg", "b.jpg", "private1.jpg")]
        assert list(came(urls, policy(robots=True)).values()) == [jpeg(1), jpeg(1), "robots"]
        assert sorted(requests(tmp_path / "work")) == ["/a.jpg", "/b.jpg", "/robots.txt"]
        assert list(came(urls, policy(robots=False)).values()) == [jpeg(1)] * 3


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (page(b"", status="404 Not Found"), None),
        (page(b"", status="403 Forbidden"), None),
        (page(b"", status="503 Unavailable"), "robots"),
        (page(b"<html>\0\xff garbage"), None),
        (page(b"User-agent: curate\nDisallow: /\n" + b"# more\n" * 100_000), "robots"),  # the beginning counts
        (nothing, "connect"),
    ],
)
def test_a_robots_txt_that_is_not_there(answer, code):
    with Hostile({"/robots.txt": answer, "/a.jpg": page(jpeg(1))}) as server:
        url = f"http://127.0.0.1:{server.port}/a.jpg"
        assert came([url], policy(robots=True))[url] == (code or jpeg(1))


def test_a_site_that_reserves_mining():
    rules = b'[{"location": "/art/*.jpg$", "tdm-reservation": 1}, {"location": "/free", "tdm-reservation": 0}]'
    with Hostile({"/.well-known/tdmrep.json": page(rules), "/art/a.jpg": page(jpeg(1)), "/free/a.jpg": page(jpeg(2))}) as server:
        urls = [f"http://127.0.0.1:{server.port}{path}" for path in ("/art/a.jpg", "/free/a.jpg")]
        assert list(came(urls, policy(tdm=True)).values()) == ["tdm_reserved", jpeg(2)]


def test_lists_of_hosts_and_urls(tmp_path):
    (tmp_path / "hosts").write_text("# people who asked\nExample.org\n127.0.0.2\n")
    with Hostile({"/a.jpg": page(jpeg(1)), "/b.jpg": page(jpeg(1)), "/to2": redirect("http://127.0.0.2:1/")}) as server:
        base = f"http://127.0.0.1:{server.port}"
        (tmp_path / "urls").write_text(f"{base}/b.jpg#x\n")
        urls = [f"{base}/a.jpg", f"{base}/b.jpg", f"{base}/to2", "http://img.example.org/a.jpg", "http://127.0.0.2/a.jpg"]
        chosen = policy(blocklist=str(tmp_path / "hosts"), opted_out=str(tmp_path / "urls"))
        assert list(came(urls, chosen).values()) == [jpeg(1), "opted_out", "blocked", "blocked", "blocked"]
        assert server.asked["/b.jpg"] == 0


async def slowly(reader, writer):
    await asyncio.sleep(0.01)
    writer.write(page(jpeg(1)))


def _crawl_all(urls: list[str], chosen: FetchPolicy) -> None:
    assert all(isinstance(answer, bytes) for answer in came(urls, chosen).values())


def test_two_processes_together_keep_the_limit_of_connections():
    with Hostile({f"/{n}": slowly for n in range(60)}) as server:
        urls = [f"http://127.0.0.{1 + n % 2}:{server.port}/{n}" for n in range(60)]
        context, chosen = multiprocessing.get_context("spawn"), policy(per_host=3)
        both = [context.Process(target=_crawl_all, args=(some, chosen)) for some in (urls[::2] + urls[1::4], urls[3::4])]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert [one.exitcode for one in both] == [0, 0]
        assert max(server.most.values()) <= 3 and server.most["127.0.0.1"] > 1


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_of_a_host_holds_for_all_who_share_the_folder(tmp_path):
    clock = Clock()
    one, other = (HostLimits(policy(rate=4.0, per_host=2), tmp_path, clock) for _ in range(2))
    assert isinstance(one.acquire("e.org:80"), Slot)
    assert other.acquire("e.org:80") == pytest.approx(0.25)
    assert isinstance(other.acquire("f.org:80"), Slot)
    clock.now += 0.25
    assert isinstance(other.acquire("e.org:80"), Slot)
    one.postpone("e.org:80", 30)
    assert other.pace("e.org:80") == pytest.approx(30)
    clock.now += 30
    assert other.pace("e.org:80") == 0


def test_connections_are_given_back(tmp_path):
    hosts = HostLimits(policy(per_host=2), tmp_path)
    first, second = hosts.acquire("e.org:80"), hosts.acquire("e.org:80")
    assert isinstance(first, Slot) and isinstance(second, Slot) and hosts.acquire("e.org:80") == BUSY
    hosts.release(first)
    assert hosts.acquire("e.org:80") == first


def test_closing_gives_connections_back(tmp_path):
    closed, other = (HostLimits(policy(per_host=1), tmp_path) for _ in range(2))
    closed.acquire("e.org:80")
    closed.close()
    assert isinstance(other.acquire("e.org:80"), Slot)


@pytest.fixture
def without_fcntl(monkeypatch):
    """A Python without the module fcntl, as on Windows, before the first crawl of its process."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delitem(sys.modules, "curate.fetch.host_files", raising=False)
    monkeypatch.setattr(host_limits, "_process_state", host_limits.ProcessHostState())


def test_without_file_locks_the_limits_hold_for_the_process(without_fcntl, tmp_path):
    clock = Clock()
    one, other = (HostLimits(policy(rate=4.0, per_host=1), tmp_path, clock) for _ in range(2))
    slot = one.acquire("e.org:80")
    assert isinstance(slot, Slot) and other.acquire("e.org:80") == BUSY
    assert isinstance(other.acquire("f.org:80"), Slot)
    one.release(slot)
    assert other.acquire("e.org:80") == pytest.approx(0.25)
    one.postpone("f.org:80", 30)
    other.close()
    again = HostLimits(policy(rate=4.0, per_host=1), tmp_path, clock)
    assert again.acquire("f.org:80") == pytest.approx(30)
    clock.now += 30
    assert isinstance(again.acquire("f.org:80"), Slot) and isinstance(again.acquire("e.org:80"), Slot)
    assert not list(tmp_path.iterdir())


def test_images_come_without_file_locks(without_fcntl):
    with Hostile({f"/{n}": page(jpeg(n)) for n in range(5)}) as server:
        urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(5)]
        assert list(came(urls, policy(per_host=1)).values()) == [jpeg(n) for n in range(5)]


def test_a_folder_that_is_a_link_is_not_used(tmp_path):
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "connections").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="connections"):
        HostLimits(policy(), tmp_path)


def test_retry_after_as_a_date():
    assert retry_after("Wed, 01 Jan 2200 00:00:00 GMT") > 10**6 and retry_after("-3") == 0 and retry_after("9" * 400) > 0


def test_crawl_delay_and_groups():
    rules = Rules(parse_robots(b"User-agent: curate\nCrawl-delay: 7\nDisallow: /a\n"))
    assert rules.delay() == 7 and rules.refuses("http://e.org/a", "/a") == "robots"
    assert rules.refuses("http://e.org/b", "/b") is None
    assert Rules(parse_robots(b"User-agent: *\nCrawl-delay: 9999")).delay() == 60


def test_a_site_that_forbids_all_is_asked_for_its_rules_only():
    with Hostile({"/robots.txt": page(b"User-agent: *\nDisallow: /\n")}) as server:
        urls = [f"http://127.0.0.1:{server.port}/{n}" for n in range(500)]
        assert set(came(urls, policy(robots=True, rate=5.0)).values()) == {"robots"}
        assert set(server.asked) == {"/robots.txt"} and sum(server.asked.values()) == 1


# Addresses -----------------------------------------------------------------------------------------------------------------

ADDRESSES = st.one_of(st.ip_addresses(), st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="fc00::/7"))


@given(ADDRESSES)
def test_only_public_addresses_are_permitted(address):
    inside = address
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or address
    if not inside.is_global:
        assert not permitted(str(address)) or address in ipaddress.ip_network("64:ff9b::/96")
    assert permitted(str(address), networks_of(["0.0.0.0/0", "::/0"]))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_another_is_as_public_as_itself(address):
    number = int(address)
    for spelled in (f"::ffff:{address}", str(ipaddress.IPv6Address((0x64FF9B << 96) + number))):
        assert permitted(spelled) == permitted(str(address))


THIS_MACHINE = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::1]", "localhost", "0.0.0.0"]


@pytest.mark.parametrize("spelled", THIS_MACHINE)
def test_every_spelling_of_this_machine_is_refused(spelled):
    url = f"http://{spelled}:1/a.jpg"
    assert came([url], policy(networks=()))[url] in ("private_address", "dns", "bad_url")


class Rebinding(AbstractResolver):
    """A name that is public when it is asked for first, and private from then on."""

    def __init__(self) -> None:
        self.answers = ["93.184.216.34"]

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        address = self.answers.pop() if self.answers else "127.0.0.1"
        return [ResolveResult(hostname=host, host=address, port=port, family=2, proto=6, flags=0)]

    async def close(self) -> None:
        """Have nothing to close."""


def test_the_address_that_is_connected_to_is_the_one_that_was_checked():
    resolver = Rebinding()
    resolver.answers.clear()
    url = "http://rebinding.example/a.jpg"
    assert came([url], policy(networks=()), lambda: resolver)[url] == "private_address"


@given(st.text(max_size=80))
def test_any_text_is_a_url_or_refused(text):
    for one in (text, "http://" + text, "https://e.org/" + text):
        try:
            url = parse_url(one)
        except FetchError as error:
            assert error.code == "bad_url"
        else:
            assert url.scheme in ("http", "https") and url.user is None and host_of(url)


@given(st.binary(max_size=200))
def test_any_bytes_are_rules_or_none(body):
    parse_tdmrep(body)
    Rules(parse_robots(body), parse_tdmrep(body)).refuses("http://e.org/a", "/a")


@given(st.lists(st.text(max_size=40)))
def test_any_tags_can_be_read(tags):
    opted_out(tags, ("noai",))


def test_tags():
    assert opted_out(["curate: noindex, noai"], ("noai",)) and not opted_out(["googlebot: noindex, noai"], ("noai",))
    assert not opted_out(["noindex"], ("noai",))


def test_dates_in_tags():
    assert opted_out(["unavailable_after: Wed, 25 Jun 2030 15:00:00 PST, noai"], ("noai",))


@pytest.mark.parametrize(
    ("location", "path", "covered"),
    [
        ("/", "/a", True), ("/a*", "/abc", True), ("/a*c$", "/abcc", True), ("/a*c$", "/abcd", False),
        ("*.jpg", "/x/y.jpg?z", True), ("/a**b", "/a-b", True), ("/a*b*b$", "/ab", False),
        ("/exact$", "/exact", True), ("/exact$", "/exactly", False),
        ("/" + "*a" * 50_000 + "$", "/" + "a" * 49_999, False),
    ],
)  # fmt: skip
def test_locations(location, path, covered):
    assert covers(location, path) == covered


def test_a_site_with_endless_reservations_reserves_all():
    assert parse_tdmrep(b"[" + b" " * 600_000) == ("/",)
    assert parse_tdmrep(b'[{"location": "/a", "tdm-reservation": 1}]') == ("/a",)


def test_a_blocklist_names_hosts_however_they_are_written(tmp_path):
    (tmp_path / "hosts").write_text("http://Bad.example:80/path\n\u00fc.example\n*.wild.example\n")
    chosen = policy(blocklist=str(tmp_path / "hosts"))
    check_ready(chosen)
    urls = [
        "http://bad.example/",
        "http://xn--tda.example/",
        "http://\u00fc.example/a",
        "http://a.wild.example/",
        "http://bad.example./x",
    ]
    assert set(came(urls, chosen).values()) == {"blocked"}
    (tmp_path / "hosts").write_text("no host at all\n")
    with pytest.raises(InputError, match="is not a host"):
        check_ready(chosen)


def test_a_fault_of_this_machine_is_not_charged_to_a_site():
    class Full(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            raise OSError(errno.EMFILE, "too many open files")

        async def close(self) -> None:
            """Have nothing to close."""

    with pytest.raises(OSError, match="too many open files"):
        came(["http://a.example/"], policy(), Full)
