"""Whether models can be loaded, found out without loading them: before a run, not in the middle of one."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from curate.core.contracts import ModelKind
from curate.models import registry
from curate.models.registry import ModelFacts

__all__ = ["ModelFacts", "check", "gpus"]


@lru_cache(maxsize=64)
def check(kind: ModelKind, spec: str) -> ModelFacts:
    """Return what is known of a model, the same at every call. Raises ModelError, in one line, if it cannot be loaded.

    Files are only hashed. The hub is not queried about a tag of open_clip that is not on this machine.
    """
    return registry.check(kind, spec)


def gpus() -> int:
    """Return how many GPUs torch may use; without a device file of one, torch, which takes seconds, is not imported."""
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("kfd"), *Path("/dev").glob("dxg")]
    if not devices or find_spec("torch") is None:
        return 0
    import torch

    return int(torch.cuda.device_count())
