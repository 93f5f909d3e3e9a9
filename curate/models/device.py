"""Where models run, and how: static shapes, CUDA graphs instead of single launches, asynchronous copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.core.contracts import Precision
from curate.core.errors import OutOfDeviceMemory
from curate.models.protocols import MODEL_ROWS

_WARM_UPS = 3  # calls before a capture: libraries choose kernels and allocate workspace in the first ones


def place(precision: Precision) -> tuple[Any, Any]:
    """Return the device of this process, a GPU where there is one, and the dtype of models on it."""
    import torch

    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        return torch.device("cuda"), dtype
    return torch.device("cpu"), dtype


def rows_of_call(device: Any, batch: int) -> int:
    """Return the fixed number of rows of a call: `batch` on a GPU; a CPU gains nothing from more than a few."""
    return batch if device.type == "cuda" else min(batch, MODEL_ROWS)


def upload(array: npt.NDArray[Any], device: Any) -> Any:
    """Return the array as a tensor on the device; the copy to a GPU is asynchronous, from pinned memory."""
    import torch

    tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@contextmanager
def out_of_memory_told(model: str, rows: int) -> Iterator[None]:
    """Turn torch's out-of-memory error into OutOfDeviceMemory, which a job handles."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfDeviceMemory(f"{model}: {rows} images a call do not fit the GPU's memory") from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error was caused by a full GPU; during a capture, torch raises another error on top."""
    import torch

    return error is not None and (isinstance(error, torch.cuda.OutOfMemoryError) or _is_out_of_memory(error.__context__))


@dataclass
class GraphMemory:
    """The memory pool shared by the graphs of one model: they never run at once, and a result is valid until the next call.

    Models do not share it: an earlier graph could overwrite the result of a later one with its temporary values.
    """

    _pool: Any = None

    def pool(self) -> Any:
        """Return the pool, made at the first call."""
        import torch

        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool


class Graphed:
    """A function of tensors of fixed shapes. On a GPU it is recorded once as a CUDA graph and then replayed.

    A replay writes to the same tensors as the previous one: a result is valid until the next call. `fresh` inputs are copied
    in; `standing` inputs are results of another Graphed, which stay at the same address and are read in place.
    """

    def __init__(self, call: Callable[..., Any], memory: GraphMemory) -> None:
        self._call, self._memory = call, memory
        self._graph: Any = None
        self._inputs: tuple[Any, ...] = ()
        self._output: Any = None

    def __call__(self, fresh: tuple[Any, ...], standing: tuple[Any, ...] = ()) -> Any:
        """Return what the function returns for these inputs."""
        import torch

        with torch.inference_mode():
            if fresh[0].device.type != "cuda":
                return self._call(*fresh, *standing)
            if self._graph is None:
                self._capture(fresh, standing)
            for held, given in zip(self._inputs, fresh, strict=True):
                held.copy_(given, non_blocking=True)
            self._graph.replay()
            return self._output

    def _capture(self, fresh: tuple[Any, ...], standing: tuple[Any, ...]) -> None:
        import torch

        self._inputs = tuple(given.clone() for given in fresh)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self._call(*self._inputs, *standing)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile; only when all went well is there a graph
        with torch.cuda.graph(graph, pool=self._memory.pool(), capture_error_mode="thread_local"):
            self._output = self._call(*self._inputs, *standing)
        self._graph = graph
