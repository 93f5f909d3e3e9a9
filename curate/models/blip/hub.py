"""Checkpoints on the hub: which revision a spec names, what of it is on this machine, and what the hub says of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curate.core.errors import ModelError
from curate.models.blip.weights import INDEX, WEIGHTS, combined, conversion, shards, there

CONFIG = "config.json"
TOKENIZERS = ("tokenizer.json", "vocab.txt")
"""Files with the words of the text transformer; the first that is there is read."""

REVISIONS = {
    "Salesforce/blip-image-captioning-base": "89b09ea1789f7addf2f6d6f0dfc4ce10ab58ef84",
    "Salesforce/blip-image-captioning-large": "2227ac38c9f16105cb0412e7cab4759978a8fd90",
    "Salesforce/blip-itm-base-coco": "7eaa90c11850c0b17fc38c6a11e7d88bd6ac231f",
    "Salesforce/blip-itm-large-coco": "fef05cafc05298067cbbca00b125749394a77a6f",
}
"""What a spec without a revision means; other repositories must be given one."""

_REVISION = re.compile(r"[0-9a-f]{40}")


def names(spec: str) -> bool:
    """Return whether a spec names a repository of the hub."""
    return spec.startswith("hf:")


def _named(spec: str) -> tuple[str, str]:
    """Return repository and revision of hf:ORGANISATION/NAME[@REVISION]. Raises ModelError."""
    name, _, revision = spec.removeprefix("hf:").partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ModelError(f"{spec}: write hf:ORGANISATION/NAME[@REVISION]")
    revision = revision or REVISIONS.get(name, "")
    if not _REVISION.fullmatch(revision):
        raise ModelError(f"{spec}: name the revision, a commit of 40 hex digits, as hf:{name}@REVISION: a branch may move")
    return name, revision


def fetched(spec: str, *, weights: bool) -> tuple[Path, str]:
    """Return the folder of a hub repository's files, from the cache or fetched, and its revision. Raises ModelError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download

    name, revision = _named(spec)

    def get(files: Sequence[str], *, offline: bool) -> Path:
        patterns: Any = [*files]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))

    small = (CONFIG, *TOKENIZERS, INDEX)
    cached = _or_none(lambda: get(small, offline=True))
    if cached and _complete(cached, weights=weights):
        return cached, revision
    _asking_hub(spec, lambda: get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision)))  # fails at once, unlike a fetch
    folder = _asking_hub(spec, lambda: get(small, offline=False))
    if weights and not there(folder):
        folder = _asking_hub(spec, lambda: get(shards(spec, folder), offline=False))
    return folder, revision


def _complete(folder: Path, *, weights: bool) -> bool:
    """Return whether a folder of the cache holds what is wanted; of the weights at least what says in which files they are."""
    known = there(folder) if weights else any((folder / name).is_file() for name in (WEIGHTS, INDEX))
    return known and (folder / CONFIG).is_file() and any((folder / name).is_file() for name in TOKENIZERS)


def _or_none(call: Callable[[], Path]) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return call()
    except LocalEntryNotFoundError:
        return None


def _asking_hub(spec: str, call: Callable[[], Any]) -> Any:
    """Return what a call to the hub returns. Raises ModelError, in one line, whatever comes between."""
    from huggingface_hub import errors

    name, revision = _named(spec)
    try:
        return call()
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{spec}: the hub has no such model, or you have no access to it (log in with `hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{spec}: the hub's model has no revision {revision}") from error
    except errors.RemoteEntryNotFoundError as error:
        reason = f"at revision {revision} the hub has no {WEIGHTS} of it; a pickle is never read"
        how = f"hf download {name} --revision {revision} --local-dir FOLDER && {conversion(Path('FOLDER/pytorch_model.bin'))}"
        raise ModelError(f"{spec}: {reason}: convert it, and give the folder instead: {how}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = f"fetch it where there is a network: hf download {name} --revision {revision} --local-dir FOLDER; give FOLDER"
        raise ModelError(f"{spec}: not in the cache, and the hub cannot be reached ({reason}); {hint}") from error


def sha256(spec: str, revision: str, files: Sequence[str]) -> str | None:
    """Return the sha256 of weights as the hub or its cache reports it, None where it says none.

    Raises ModelError when the hub has none of them.
    """
    found = {file: _blob(spec, revision, file) for file in files}
    known = {file: blob for file, blob in found.items() if re.fullmatch(r"[0-9a-f]{64}", blob)}
    return combined(known) if len(known) == len(files) else None


def _blob(spec: str, revision: str, file: str) -> str:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    name, _ = _named(spec)
    cached = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached).resolve().name  # the cache names large files by their sha256
    return _asking_hub(spec, lambda: get_hf_file_metadata(hf_hub_url(name, file, revision=revision)).etag) or ""
