"""Write curate/models/graphs: the networks that ONNX Runtime runs, as ONNX files without weights.

    python -m tests.make_graphs

The weights are declared as external data, and are handed to ONNX Runtime when a session is made: they come from a package.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from curate.models.efficientnet import DIM, SIDE, Block, graph_name, named_weights, network, packaged_weights
from curate.models.mini.features import SIDE as MINI_SIDE
from curate.models.protocols import MODEL_ROWS

FOLDER = Path(__file__).parents[1] / "curate" / "models" / "graphs"
WANTED = ((SIDE, 1, True), (MINI_SIDE, 3, False))  # side, channels, pooled: efficientnet-lite0; mini
_STRIDE = 32  # of the whole network
_IR, _OPSET = 8, 13


def graphs() -> dict[str, onnx.ModelProto]:
    """Return the models by the names of their files."""
    found = {}
    for side, channels, pooled in WANTED:
        blocks = network(packaged_weights(), channels)
        found[graph_name(blocks, side, pooled=pooled)] = graph(blocks, side, pooled=pooled)
    return found


def graph(blocks: tuple[Block, ...], side: int, *, pooled: bool) -> onnx.ModelProto:
    """Return a chain of convolutions: pictures [MODEL_ROWS, channels, side, side] to the map of features, or it pooled."""
    nodes, current, number = [], "pictures", 0
    for block in blocks:
        before = current
        for layer in block:
            number += 1
            low, high = layer.pads
            shape = {"kernel_shape": [*layer.weight.shape[2:]], "strides": [layer.stride] * 2, "group": layer.groups}
            inputs = [current, f"weight{number}", f"bias{number}"]
            current = f"result{number}"
            nodes.append(helper.make_node("Conv", inputs, [current], pads=[low, low, high, high], **shape))
            if layer.clipped:
                nodes.append(helper.make_node("Clip", [current, "zero", "six"], [current := f"clipped{number}"]))
            if layer.residual:
                nodes.append(helper.make_node("Add", [before, current], [current := f"added{number}"]))
    end = side // _STRIDE
    if pooled:
        nodes.append(helper.make_node("GlobalAveragePool", [current], [current := "pooled"]))
        end = 1
    channels = blocks[0][0].weight.shape[1]
    pictures = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, [MODEL_ROWS, channels, side, side])
    features = helper.make_tensor_value_info(current, TensorProto.FLOAT, [MODEL_ROWS, DIM, end, end])
    limits = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("zero", 0.0), ("six", 6.0))]
    declared = [_declared(name, value.shape) for name, value in named_weights(blocks).items()]
    made = helper.make_graph(nodes, "efficientnet-lite0", [pictures], [features], [*limits, *declared])
    return helper.make_model(made, ir_version=_IR, opset_imports=[helper.make_opsetid("", _OPSET)])


def _declared(name: str, shape: tuple[int, ...]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="given when the session is made")
    return tensor


if __name__ == "__main__":
    for file, model in graphs().items():
        (FOLDER / file).write_bytes(model.SerializeToString(deterministic=True))
        print(FOLDER / file)
