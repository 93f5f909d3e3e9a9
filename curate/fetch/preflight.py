"""Whether fetching may begin: a contact, the packages, the lists. Asked once, before any work."""

from __future__ import annotations

from pathlib import Path

from curate.core.errors import InputError, needs
from curate.fetch.policy import FetchPolicy


def check_ready(policy: FetchPolicy) -> None:
    """Raise InputError where sites could not write to anybody, or a package or list is not there, or a list is none."""
    if not policy.contact.strip():
        raise InputError(
            "the images of this input are fetched from the web, and sites must be able to write to you: "
            "--set fetch.contact=URL or mail address"
        )
    extra = "fetch" if policy.engine == "curate" else "img2dataset"
    needs("fetching", extra, ["aiohttp", "protego", *([] if extra == "fetch" else ["img2dataset"])])
    from curate.fetch.denylists import refused  # only now: it needs these packages

    for name in ("blocklist", "opted_out"):
        path = getattr(policy, name)
        if path is not None and not Path(path).is_file():
            raise InputError(f"fetch.{name}: {path}: no such file")
    refused(policy)
