"""State dicts in torch's file format of before 1.6, read without torch and without running anything that a pickle names.

The format: four pickles (a magic number, the version, the writer's sizes, the state dict with tensors that refer to storages
by key), a pickle with the list of keys, then for each key its number of elements (int64) and the elements, little-endian.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from curate.core.errors import ModelError

Arrays = dict[str, npt.NDArray[Any]]

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "LongStorage": "<i8"}


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides are in elements."""

    storage: tuple[str, str]  # dtype and key
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: tuple[str, str], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names of a state dict and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a state dict")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in _TYPES.values():
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        return dtype, str(key)


def read_state_dict(path: Path) -> Arrays:
    """Return the tensors of a state dict by name, as arrays of their own dtype. Raises ModelError where it is none."""
    try:
        with path.open("rb") as file:
            if _Reader(file).load() != _MAGIC:
                raise ValueError("it does not begin with torch's magic number")
            _Reader(file).load()
            sizes = _Reader(file).load()
            if not sizes["little_endian"]:
                raise ValueError("its numbers are big-endian")
            tensors: dict[str, _Tensor] = _Reader(file).load()
            storages = _storages(file, {tensor.storage[1]: tensor.storage[0] for tensor in tensors.values()})
        return {name: _view(storages[tensor.storage[1]], tensor) for name, tensor in tensors.items()}
    except (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} is no state dict: {error}") from error


def _storages(file: BinaryIO, types: dict[str, str]) -> Arrays:
    found = {}
    for key in _Reader(file).load():
        count = int.from_bytes(file.read(8), "little")
        dtype = np.dtype(types[str(key)])
        found[str(key)] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return found


def _view(storage: npt.NDArray[Any], tensor: _Tensor) -> npt.NDArray[Any]:
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, steps, writeable=False)
