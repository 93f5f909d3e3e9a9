"""BLIP's networks (Li et al. 2022, BLIP, figure 2) as functions of named tensors: the image encoder and the text transformer.

Names and layouts are those of the checkpoints on the Hugging Face hub. `prepared` folds them into what runs fastest: one
matrix for queries, keys and values; one for the cross-attention keys and values of all layers, which an image needs once.
Nothing here waits for a GPU, and all shapes are fixed, so that every function can be recorded as a graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curate.models.protocols import Sampling
from curate.models.sampling import next_tokens

Params = dict[str, Any]
"""Torch tensors by name."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's mean and standard deviation of red, green and blue, of values from 0 to 1."""

_VISION = "vision_model"
_CAPTIONER, _MATCHER = "text_decoder.bert", "text_encoder"


@dataclass(frozen=True)
class Tower:
    """A transformer: its width, the inner width of its feed-forward layers, layers, heads, epsilon of its normalisation."""

    width: int
    inner: int
    layers: int
    heads: int
    epsilon: float


@dataclass(frozen=True)
class Shape:
    """A BLIP model: an image encoder for pictures of `side` pixels in patches, and a text transformer over `words` tokens."""

    vision: Tower
    text: Tower
    side: int = 384
    patch: int = 16
    words: int = 30524
    positions: int = 512
    shared: int = 256  # dimensions of the space of the contrastive heads
    decode: int = 30522  # the token [DEC] that starts a caption; [ENC], that starts a text to be matched, is the next
    stop: int = 102  # [SEP]
    pad: int = 0

    @property
    def encode(self) -> int:
        """Return the token [ENC]: in training the first of every text to be matched (blip_retrieval.py)."""
        return self.decode + 1

    @property
    def regions(self) -> int:
        """Return the tokens of a picture: its patches and the class token."""
        return (self.side // self.patch) ** 2 + 1


_HEADS = {"matcher": ("itm_head",), "embedder": ("vision_proj", "text_proj")}
"""Small last matrices of each kind of model: they stay float32, or their results would be rounded to three digits."""

Sizes = dict[str, tuple[int, ...]]


def wanted(shape: Shape, kind: str) -> Sizes:
    """Return the tensors that a checkpoint must hold, by name: `kind` is captioner, matcher or embedder."""
    found = _vision_sizes(shape)
    text = _CAPTIONER if kind == "captioner" else _MATCHER
    width = shape.text.width
    found |= {f"{text}.embeddings.word_embeddings.weight": (shape.words, width)}
    found |= {f"{text}.embeddings.position_embeddings.weight": (shape.positions, width)}
    found |= _pair(f"{text}.embeddings.LayerNorm", width)
    for layer in range(shape.text.layers):
        found |= _layer_sizes(shape, f"{text}.encoder.layer.{layer}")
    if kind == "captioner":
        head = "text_decoder.cls.predictions"
        found |= _pair(f"{head}.transform.dense", width, width) | _pair(f"{head}.transform.LayerNorm", width)
        found |= {f"{head}.bias": (shape.words,)}
    if kind == "matcher":
        found |= _pair("itm_head", 2, width)
    if kind == "embedder":
        found |= _pair("vision_proj", shape.shared, shape.vision.width) | _pair("text_proj", shape.shared, width)
    return found


def _vision_sizes(shape: Shape) -> Sizes:
    width, inner = shape.vision.width, shape.vision.inner
    found: Sizes = {f"{_VISION}.embeddings.class_embedding": (1, 1, width)}
    found |= {f"{_VISION}.embeddings.position_embedding": (1, shape.regions, width)}
    found |= _pair(f"{_VISION}.embeddings.patch_embedding", width, 3, shape.patch, shape.patch)
    found |= _pair(f"{_VISION}.post_layernorm", width)
    for layer in range(shape.vision.layers):
        name = f"{_VISION}.encoder.layers.{layer}"
        found |= _pair(f"{name}.self_attn.qkv", 3 * width, width) | _pair(f"{name}.self_attn.projection", width, width)
        found |= _pair(f"{name}.mlp.fc1", inner, width) | _pair(f"{name}.mlp.fc2", width, inner)
        found |= _pair(f"{name}.layer_norm1", width) | _pair(f"{name}.layer_norm2", width)
    return found


def _layer_sizes(shape: Shape, name: str) -> Sizes:
    width, inner, found = shape.text.width, shape.text.inner, Sizes()
    for attention, source in (("attention", width), ("crossattention", shape.vision.width)):
        found |= _pair(f"{name}.{attention}.self.query", width, width)
        found |= _pair(f"{name}.{attention}.self.key", width, source) | _pair(f"{name}.{attention}.self.value", width, source)
        found |= _pair(f"{name}.{attention}.output.dense", width, width) | _pair(f"{name}.{attention}.output.LayerNorm", width)
    found |= _pair(f"{name}.intermediate.dense", inner, width) | _pair(f"{name}.output.dense", width, inner)
    return found | _pair(f"{name}.output.LayerNorm", width)


def _pair(name: str, *size: int) -> Sizes:
    return {f"{name}.weight": size, f"{name}.bias": size[:1]}


def prepared(shape: Shape, kind: str, tensors: Params, device: Any, dtype: Any) -> Params:
    """Return a checkpoint's tensors on a device, under short names: v (vision), t (text), head; fused where that is faster."""
    import torch

    text = _CAPTIONER if kind == "captioner" else _MATCHER
    p: Params = {}

    def take(name: str, *sources: str) -> None:
        for part in ("weight", "bias"):
            p[f"{name}.{part}"] = torch.cat([tensors[f"{source}.{part}"] for source in sources])

    _take_vision(shape, tensors, p, take)
    p["t.words"] = tensors[f"{text}.embeddings.word_embeddings.weight"]
    p["t.position"] = tensors[f"{text}.embeddings.position_embeddings.weight"]
    take("t.norm", f"{text}.embeddings.LayerNorm")
    layers = [f"{text}.encoder.layer.{layer}" for layer in range(shape.text.layers)]
    for n, name in enumerate(layers):
        take(f"t.{n}.self.in", *(f"{name}.attention.self.{part}" for part in ("query", "key", "value")))
        take(f"t.{n}.cross.in", f"{name}.crossattention.self.query")
        for ours, theirs in (("self", "attention"), ("cross", "crossattention")):
            take(f"t.{n}.{ours}.out", f"{name}.{theirs}.output.dense")
            take(f"t.{n}.{ours}.norm", f"{name}.{theirs}.output.LayerNorm")
        take(f"t.{n}.up", f"{name}.intermediate.dense")
        take(f"t.{n}.down", f"{name}.output.dense")
        take(f"t.{n}.norm", f"{name}.output.LayerNorm")
    take("t.memory", *(f"{name}.crossattention.self.{part}" for name in layers for part in ("key", "value")))
    if kind == "captioner":
        take("head.in", "text_decoder.cls.predictions.transform.dense")
        take("head.norm", "text_decoder.cls.predictions.transform.LayerNorm")
        p["head.bias"] = tensors["text_decoder.cls.predictions.bias"]
    heads = _HEADS.get(kind, ())
    for name in heads:
        take(name, name)
    p |= {"v.mean": torch.tensor(MEAN) * 255, "v.std": torch.tensor(STD) * 255}
    exact = ("v.mean", "v.std", *(f"{name}.{part}" for name in heads for part in ("weight", "bias")))
    return {name: value.to(device, torch.float32 if name in exact else dtype).contiguous() for name, value in p.items()}


def _take_vision(shape: Shape, tensors: Params, p: Params, take: Any) -> None:
    patches = f"{_VISION}.embeddings.patch_embedding"
    p["v.in.weight"] = tensors[f"{patches}.weight"].permute(0, 2, 3, 1).flatten(1)  # as pixels lie: rows, columns, colours
    p["v.in.bias"] = tensors[f"{patches}.bias"]
    p["v.class"] = tensors[f"{_VISION}.embeddings.class_embedding"]
    p["v.position"] = tensors[f"{_VISION}.embeddings.position_embedding"]
    take("v.norm", f"{_VISION}.post_layernorm")
    for n in range(shape.vision.layers):
        name = f"{_VISION}.encoder.layers.{n}"
        take(f"v.{n}.in", f"{name}.self_attn.qkv")
        take(f"v.{n}.out", f"{name}.self_attn.projection")
        take(f"v.{n}.norm1", f"{name}.layer_norm1")
        take(f"v.{n}.norm2", f"{name}.layer_norm2")
        take(f"v.{n}.up", f"{name}.mlp.fc1")
        take(f"v.{n}.down", f"{name}.mlp.fc2")


# Layers ---------------------------------------------------------------------------------------------------------------


def linear(p: Params, name: str, x: Any) -> Any:
    """Return x times the matrix `name`, plus its bias."""
    from torch.nn import functional

    return functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def _norm(p: Params, name: str, x: Any, epsilon: float) -> Any:
    from torch.nn import functional

    return functional.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], epsilon)


def _heads(x: Any, heads: int) -> Any:
    """Return [rows, length, width] as [rows, heads, length, width / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(queries: Any, keys: Any, values: Any, mask: Any = None) -> Any:
    import torch
    from torch.nn import functional

    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:  # for which the fused one is thrice as slow
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2).flatten(2)


def _feed_forward(p: Params, name: str, x: Any) -> Any:
    from torch.nn import functional

    return linear(p, f"{name}.down", functional.gelu(linear(p, f"{name}.up", x)))


# Pictures -------------------------------------------------------------------------------------------------------------


def see(p: Params, shape: Shape, pictures: Any) -> Any:
    """Return states [rows, regions, width] of pictures, RGB uint8 [rows, side, side, 3]; the first is the class token's."""
    import torch

    dtype, count = p["v.class"].dtype, shape.side // shape.patch
    patches = pictures.view(len(pictures), count, shape.patch, count, shape.patch, 3).transpose(2, 3)
    patches = ((patches.float() - p["v.mean"]) / p["v.std"]).to(dtype).flatten(1, 2).flatten(2)
    x = torch.cat([p["v.class"].expand(len(pictures), -1, -1), linear(p, "v.in", patches)], 1) + p["v.position"]
    for n in range(shape.vision.layers):
        x = _vision_layer(p, f"v.{n}", x, shape.vision)
    return _norm(p, "v.norm", x, shape.vision.epsilon)


def _vision_layer(p: Params, name: str, x: Any, tower: Tower) -> Any:
    qkv = linear(p, f"{name}.in", _norm(p, f"{name}.norm1", x, tower.epsilon))
    q, k, v = (_heads(part, tower.heads) for part in qkv.chunk(3, -1))
    x = x + linear(p, f"{name}.out", _attend(q, k, v))
    return x + _feed_forward(p, name, _norm(p, f"{name}.norm2", x, tower.epsilon))


def remembered(p: Params, shape: Shape, states: Any) -> Any:
    """Return the cross-attention keys and values of all layers, [layers, 2, rows, heads, regions, width / heads]."""
    memory = linear(p, "t.memory", states).unflatten(-1, (shape.text.layers, 2, shape.text.heads, -1))
    return memory.permute(2, 3, 0, 4, 1, 5).contiguous()  # it is read at every token


# Texts ----------------------------------------------------------------------------------------------------------------


def _embedded(p: Params, shape: Shape, tokens: Any, start: int) -> Any:
    from torch.nn import functional

    x = functional.embedding(tokens, p["t.words"]) + p["t.position"][start : start + tokens.shape[1]]
    return _norm(p, "t.norm", x, shape.text.epsilon)


def _text_layer(p: Params, shape: Shape, n: int, x: Any, attended: Any) -> Any:
    """Return x after self-attention's result is taken in."""
    return _norm(p, f"t.{n}.self.norm", x + linear(p, f"t.{n}.self.out", attended), shape.text.epsilon)


def _crossed(p: Params, shape: Shape, n: int, x: Any, memory: Any) -> Any:
    """Return x after it looked at the picture."""
    queries = _heads(linear(p, f"t.{n}.cross.in", x), shape.text.heads)
    looked = _attend(queries, memory[n, 0], memory[n, 1])
    return _norm(p, f"t.{n}.cross.norm", x + linear(p, f"t.{n}.cross.out", looked), shape.text.epsilon)


def _thought(p: Params, shape: Shape, n: int, x: Any) -> Any:
    return _norm(p, f"t.{n}.norm", x + _feed_forward(p, f"t.{n}", x), shape.text.epsilon)


def read(p: Params, shape: Shape, tokens: Any, mask: Any, memory: Any = None) -> Any:
    """Return the last states [rows, length, width] of texts that see all of themselves, and the picture where given.

    `tokens` int64 [rows, length], `mask` bool, False at padding, `memory` from `remembered`.
    """
    x, visible = _embedded(p, shape, tokens, 0), mask[:, None, None, :]
    for n in range(shape.text.layers):
        q, k, v = (_heads(part, shape.text.heads) for part in linear(p, f"t.{n}.self.in", x).chunk(3, -1))
        x = _text_layer(p, shape, n, x, _attend(q, k, v, visible))
        x = x if memory is None else _crossed(p, shape, n, x, memory)
        x = _thought(p, shape, n, x)
    return x


class _Past:
    """The keys and values of the tokens so far, of every layer."""

    def __init__(self, shape: Shape, rows: int, length: int, like: Any) -> None:
        heads, layers = shape.text.heads, shape.text.layers
        self._held = like.new_zeros(layers, 2, rows, heads, length, shape.text.width // heads)
        self.length = 0

    def with_new(self, n: int, keys: Any, values: Any) -> tuple[Any, Any]:
        """Return the layer's keys and values with these at their end."""
        end = self.length + keys.shape[2]
        self._held[n, 0, :, :, self.length : end] = keys
        self._held[n, 1, :, :, self.length : end] = values
        return self._held[n, 0, :, :, :end], self._held[n, 1, :, :, :end]


def _next_logits(p: Params, shape: Shape, tokens: Any, memory: Any, past: _Past) -> Any:
    """Return float32 logits [rows, words] after the last of `tokens`, [rows, length], which `past` takes up."""
    import torch
    from torch.nn import functional

    length = tokens.shape[1]
    x = _embedded(p, shape, tokens, past.length)
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril() if length > 1 else None
    for n in range(shape.text.layers):
        q, k, v = (_heads(part, shape.text.heads) for part in linear(p, f"t.{n}.self.in", x).chunk(3, -1))
        x = _text_layer(p, shape, n, x, _attend(q, *past.with_new(n, k, v), causal))
        x = _thought(p, shape, n, _crossed(p, shape, n, x, memory))
    past.length += length
    x = functional.gelu(linear(p, "head.in", x[:, -1]))
    x = _norm(p, "head.norm", x, shape.text.epsilon)
    return functional.linear(x, p["t.words"], p["head.bias"]).float()


@dataclass(frozen=True)
class Manner:
    """How captions are written: after the tokens of a prompt, int64 [length] on the device, and how the next is chosen."""

    prompt: Any
    sampling: Sampling


def write(p: Params, shape: Shape, manner: Manner, draws: Any, memory: Any) -> Any:
    """Return int64 [rows, max_tokens]: the tokens after the prompt, up to the stop, and padding after it.

    `draws` float32 [rows, max_tokens] pick them (see `next_tokens`). The prompt counts as seen for the repetition penalty,
    as in the authors' code.
    """
    import torch

    sampling, rows, steps = manner.sampling, len(draws), manner.sampling.max_tokens
    past = _Past(shape, rows, len(manner.prompt) + steps, memory)
    tokens = manner.prompt.expand(rows, -1)
    before = tokens
    out = torch.full((rows, steps), shape.pad, device=draws.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=draws.device)
    for step in range(steps):
        logits = _next_logits(p, shape, tokens, memory, past)
        if step < sampling.min_tokens:
            logits[:, shape.stop] = -torch.inf
        chosen = next_tokens(sampling, logits, before, draws[:, step]).masked_fill(ended, shape.pad)
        out[:, step] = chosen
        ended = ended | (chosen == shape.stop)
        if draws.device.type == "cpu" and bool(ended.all()):  # a GPU would have to be waited for
            break
        tokens = chosen[:, None]
        before = torch.cat([before, tokens], 1)
    return out
