"""Notices that the network is down, before thousands of images are recorded as failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from curate.core.errors import NetworkDown
from curate.fetch import FetchResult

_OFFLINE = ("dns", "connect", "host_down")
_NOT_REQUESTED = ("bad_url", "blocked", "opted_out", "private_address")


def while_online(answers: Iterator[FetchResult | None], urls: Mapping[int, str], limit: int) -> Iterator[FetchResult | None]:
    """Yield the answers, the first of them held back until one shows that the network is there; `urls` are by row.

    Raises NetworkDown when `limit` of them (0: however many) have failed by dns or connect, at two hosts or more, and nothing
    else came: nothing of them is yielded then, so that nothing is recorded and the next run requests them again. One host
    that is down is no sign of that.
    """
    held: list[FetchResult] = []
    failed: Counter[str] = Counter()
    hosts: set[str] = set()
    for answer in answers if limit else ():
        if answer is None:
            yield None
            continue
        held.append(answer)
        if answer.error in _OFFLINE:
            failed[answer.error] += 1
            hosts.add(urls[answer.row].partition("://")[2].partition("/")[0].lower())
            if failed.total() >= limit and len(hosts) > 1:
                raise NetworkDown(_line(failed, len(hosts)))
        elif answer.error not in _NOT_REQUESTED:
            break
    yield from held
    yield from answers


def _line(failed: Counter[str], hosts: int) -> str:
    causes = ", ".join(f"{cause} {number:,}" for cause, number in failed.most_common())
    return (
        f"the network is down, or this machine may not reach the web: the first {failed.total():,} requests, to {hosts:,} hosts, "
        f"failed ({causes}); when it is there, run the same command again (--set fetch.offline_after=0 goes on all the same)"
    )
