"""Whether weights that open_clip fetches from the hub are on this machine, or can be fetched: found out before a run."""

from __future__ import annotations

import posixpath
from functools import lru_cache
from pathlib import Path

from curate.core.errors import ModelError
from curate.models.openclip import imported, parts

_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_SECONDS = 10.0  # that the hub has to answer


@lru_cache(maxsize=16)
def check_weights(spec: str) -> None:
    """Ask the hub for the weights of an open_clip tag that are not on this machine; they are not fetched.

    Raises ModelError, in one line, where it does not answer or has none.
    """
    architecture, tag = parts(spec)
    if Path(tag).is_file():
        return
    config = imported().pretrained.get_pretrained_cfg(architecture, tag)
    repository, name = posixpath.split(config.get("hf_hub", ""))
    if not repository or (Path.home() / ".cache" / "clip" / posixpath.basename(config.get("url", "none"))).is_file():
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    names = (name,) if name else _NAMES
    if any(isinstance(try_to_load_from_cache(repository, one), str) for one in names):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, names[-1]), timeout=_SECONDS)
    except Exception as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(f"{spec}: its weights are not on this machine and cannot be fetched: {said}") from error
