"""The layers of the mini models as functions of named tensors: the same code trains them and runs them.

A model is a dict of torch tensors. Files hold it as safetensors, matrices in int8 with a scale for each row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.core.errors import ModelError

Params = dict[str, Any]
"""Torch tensors by name."""

Arrays = dict[str, npt.NDArray[Any]]

HEADS = 8
ENCODERS, DECODERS = 1, 3
WIDTH, INNER = 256, 1024
POSITIONS = 40
"""Longest caption, in tokens with the start mark."""

PAD, START, END, UNKNOWN = range(4)
"""The first words of the captioner's vocabulary, which no caption shows."""

_SMALL = 2048  # numbers; a tensor below it stays float32


def linear(p: Params, name: str, x: Any) -> Any:
    """Return x times the matrix `name`, plus its bias."""
    from torch.nn import functional

    return functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def norm(p: Params, name: str, x: Any) -> Any:
    """Return x with layer normalisation (Ba et al. 2016)."""
    from torch.nn import functional

    return functional.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def heads(x: Any) -> Any:
    """Return [rows, length, width] as [rows, HEADS, length, width / HEADS]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def joined(x: Any) -> Any:
    """Undo `heads`."""
    return x.transpose(1, 2).flatten(2)


def attend(queries: Any, keys: Any, values: Any, mask: Any = None) -> Any:
    """Return attention (Vaswani et al. 2017) of tensors split by `heads`; a mask is True where a query may look.

    Always in float32: in bfloat16, in which the matrices are trained, its gradient is slower on a CPU.
    """
    import torch
    from torch.nn import functional

    with torch.autocast("cpu", enabled=False):
        q, k, v = queries.float(), keys.float(), values.float()
        return joined(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def feed_forward(p: Params, name: str, x: Any) -> Any:
    """Return the two-layer network of a transformer block, GELU in between."""
    from torch.nn import functional

    return linear(p, f"{name}.down", functional.gelu(linear(p, f"{name}.up", x)))


def dropped(x: Any, rate: float) -> Any:
    """Return x with dropout, the rate in 256ths; itself where the rate is 0, as it is at every use but training.

    Eight marks come from one random number: one a mark is a tenth of the whole training.
    """
    import torch

    if not rate:
        return x
    marks = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)[: x.numel()]
    return x * ((marks >= round(256 * rate)).view(x.shape).to(x.dtype) / (1 - rate))


def encode(p: Params, maps: Any, rate: float = 0.0) -> Any:
    """Return the captioner's memory of pictures, [rows, REGIONS, WIDTH], of maps [rows, REGIONS, DIM]."""
    x = dropped(linear(p, "image.in", norm(p, "image.norm", maps)) + p["image.position"], rate)
    for layer in range(ENCODERS):
        name = f"encoder.{layer}"
        q, k, v = (heads(part) for part in linear(p, f"{name}.self.in", norm(p, f"{name}.norm1", x)).chunk(3, -1))
        x = x + dropped(linear(p, f"{name}.self.out", attend(q, k, v)), rate)
        x = x + dropped(feed_forward(p, name, norm(p, f"{name}.norm2", x)), rate)
    return norm(p, "encoder.norm", x)


def looked_up(p: Params, memory: Any) -> list[tuple[Any, Any]]:
    """Return the keys and values of a memory for the cross-attention of each decoder layer: once a picture."""
    pairs = [linear(p, f"decoder.{layer}.cross.memory", memory).chunk(2, -1) for layer in range(DECODERS)]
    return [(heads(keys), heads(values)) for keys, values in pairs]


def decode(p: Params, tokens: Any, looks: list[tuple[Any, Any]], past: list[tuple[Any, Any]], rate: float = 0.0) -> Any:
    """Return logits [rows, length, words] of the token after each of `tokens`, int64 [rows, length].

    `past` holds each layer's keys and values of the tokens before these; the new ones are appended to it in place. It is
    empty at the start, where `tokens` may be many (training); after it they are one a row.
    """
    import torch
    from torch.nn import functional

    done, length = (past[0][0].shape[2], 1) if past else (0, tokens.shape[1])
    x = dropped(functional.embedding(tokens, p["words"]) * WIDTH**0.5 + p["position"][done : done + length], rate)
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril() if length > 1 else None
    for layer in range(DECODERS):
        name = f"decoder.{layer}"
        q, k, v = (heads(part) for part in linear(p, f"{name}.self.in", norm(p, f"{name}.norm1", x)).chunk(3, -1))
        if done:
            k, v = torch.cat([past[layer][0], k], 2), torch.cat([past[layer][1], v], 2)
            past[layer] = k, v
        else:
            past.append((k, v))
        x = x + dropped(linear(p, f"{name}.self.out", attend(q, k, v, causal)), rate)
        q = heads(linear(p, f"{name}.cross.in", norm(p, f"{name}.norm2", x)))
        x = x + dropped(linear(p, f"{name}.cross.out", attend(q, *looks[layer])), rate)
        x = x + dropped(feed_forward(p, name, norm(p, f"{name}.norm3", x)), rate)
    return functional.linear(norm(p, "decoder.norm", x), p["words"], p["words.bias"])


def write_weights(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write arrays as safetensors: matrices in int8 with a scale for each row, the rest as they are, `about` as JSON."""
    from safetensors.numpy import save

    stored: Arrays = {}
    for name, given in sorted(arrays.items()):
        value = np.ascontiguousarray(given, np.float32)  # safetensors writes memory as it lies: a transposed matrix wrongly
        if value.ndim < 2 or value.size < _SMALL:
            stored[name] = value
            continue
        scale = np.maximum(np.abs(value).max(axis=-1, keepdims=True), 1e-12) / 127
        stored[name], stored[f"{name}.scale"] = np.rint(value / scale).astype(np.int8), scale
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".{path.name}.part")
    whole.write_bytes(save(stored, {"about": json.dumps(about, ensure_ascii=False, sort_keys=True)}))
    whole.replace(path)


def read_weights(path: Path, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """Return what `write_weights` wrote: arrays as float32, and `about`. Raises ModelError for another `kind`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"mini cannot read {path}: {error}") from error
    if about.get("kind") != kind:
        raise ModelError(f"{path} is not a {kind} of `curate train-mini`")
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(".scale")}
    return {n: v.astype(np.float32) * scales.get(f"{n}.scale", np.float32(1)) for n, v in stored.items()}, about
