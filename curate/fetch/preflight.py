"""Checks before any work starts that fetching is possible: a contact, the packages, the lists."""

from __future__ import annotations

from pathlib import Path

from curate.core.errors import InputError, needs
from curate.fetch.policy import FetchPolicy


def check_ready(policy: FetchPolicy) -> None:
    """Raise InputError for a missing contact or package, or a list that is missing or invalid."""
    if not policy.contact.strip():
        raise InputError(
            "the images of this input are fetched from the web, and sites must be able to contact you: "
            "--set fetch.contact=URL or mail address"
        )
    extra = "fetch" if policy.engine == "curate" else "img2dataset"
    needs("fetching", extra, ["aiohttp", "protego", *([] if extra == "fetch" else ["img2dataset"])])
    from curate.fetch.denylists import load_denylists  # needs the packages just checked

    for name in ("blocklist", "opted_out"):
        path = getattr(policy, name)
        if path is not None and not Path(path).is_file():
            raise InputError(f"fetch.{name}: {path}: no such file")
    load_denylists(policy)
