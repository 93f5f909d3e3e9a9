"""The codes of failed fetches and their meanings."""

from __future__ import annotations

ERRORS: dict[str, str] = {
    "missing_url": "the record has no URL",
    "bad_url": "not a valid http, https or data URL",
    "blocked": "the host is on the blocklist",
    "opted_out": "the URL is on the list of opted-out URLs",
    "robots": "robots.txt of the host disallows the URL, or the host failed to serve it",
    "noai": "the response has an X-Robots-Tag directive that is honoured",
    "tdm_reserved": "text and data mining is reserved, by the response or by the host's tdmrep.json",
    "private_address": "the address of the host is not public: private, loopback, link-local, metadata, ...",
    "dns": "the host name does not resolve",
    "connect": "connecting failed, or the connection closed before the response",
    "bad_answer": "the response is not valid HTTP",
    "tls": "the certificate or the encryption of the host is invalid",
    "timeout": "the request took longer than the limit",
    "host_down": "the host failed several times in a row, so the rest of its URLs was not requested",
    "too_many_redirects": "more redirects than the limit, or a redirect loop",
    "too_large": "more bytes than the limit, before or after decompression",
    "truncated": "fewer bytes than the response announced",
    "bad_encoding": "the response is encoded in a way that was not requested and cannot be decoded",
    "empty": "the response has no bytes",
    "not_image": "the response is not an image",
    "too_many_pixels": "the image claims more pixels than the limit",
    "sha256_mismatch": "the image differs from the sha256 in the input",
    "engine_failed": "img2dataset failed or hung, twice",
}
"""Every code except http_NNN: the host responded with that status."""


class FetchError(Exception):
    """A failed fetch.

    `code` is a key of ERRORS, or http_NNN. A `retryable` one may succeed later, after `retry_after` seconds.
    """

    def __init__(self, code: str, *, retryable: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
