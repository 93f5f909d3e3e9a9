"""Why an image was not fetched: every code, and what it means."""

from __future__ import annotations

ERRORS: dict[str, str] = {
    "missing_url": "the record names no url",
    "bad_url": "the url is none, or not of http or https",
    "blocked": "the host is on the blocklist",
    "opted_out": "the url is on the list of urls whose owners opted out",
    "robots": "the host's robots.txt disallows it, or could not be had for a fault of the host",
    "noai": "the answer has a directive of X-Robots-Tag that is honoured",
    "tdm_reserved": "text and data mining is reserved, by the answer or by the host's tdmrep.json",
    "private_address": "the host's address is not public: private, loopback, link-local, metadata, ...",
    "dns": "the host has no address",
    "connect": "no connection, or it broke off before the answer",
    "bad_answer": "what came is no answer in HTTP",
    "tls": "the host's certificate or encryption is not in order",
    "timeout": "it took longer than the limit",
    "host_down": "the host failed to answer several times in a row and was not asked any more",
    "too_many_redirects": "more redirects than the limit, or round in a circle",
    "too_large": "more bytes than the limit, also once inflated",
    "truncated": "fewer bytes came than the answer had announced",
    "bad_encoding": "the answer is encoded in a way that was not asked for and cannot be undone",
    "empty": "the answer has no bytes",
    "not_image": "what came is no image",
    "too_many_pixels": "the image claims more pixels than the limit",
    "sha256_mismatch": "it is another image than the input says",
    "engine_failed": "img2dataset failed or hung, twice",
}
"""Besides, http_NNN: the host answered with that status."""


class FetchError(Exception):
    """An image that cannot be had; `code` is a key of ERRORS, or http_NNN."""

    def __init__(self, code: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(code)
        self.code = code
        self.passing = passing  # it may be otherwise if one asks again, after `wait` seconds
        self.wait = wait
