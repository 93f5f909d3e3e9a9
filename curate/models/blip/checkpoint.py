"""Checkpoints of BLIP: a folder, or a repository of the hub at a fixed revision; checked by their headers before any work.

Only config.json, the tokenizer and safetensors are ever read: no pickle, no code that comes with a model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from curate.core.errors import ModelError
from curate.models.blip import hub
from curate.models.blip.network import Params, Shape, Tower, wanted
from curate.models.blip.weights import (
    PICKLES,
    WEIGHTS,
    check_headers,
    digest,
    pickle_hint,
    pickle_refused,
    read_tensors,
    shards,
    there,
)

__all__ = ["CONFIG", "TEXT_TOKENS", "TOKENIZERS", "WEIGHTS", "Checkpoint", "Kind", "inspect", "open_checkpoint"]

Kind = Literal["captioner", "matcher", "embedder"]

CONFIG, TOKENIZERS = hub.CONFIG, hub.TOKENIZERS
TEXT_TOKENS = 35
"""Of a text that is matched at most, as in the authors' matcher (blip_itm.py)."""

_SMALL = 16 << 20  # bytes of a config or tokenizer that is read at all


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with a config and a header that agree; `revision` is that of the hub, None for a folder."""

    spec: str
    folder: Path
    shape: Shape
    revision: str | None = None

    def tensors(self, kind: Kind) -> Params:
        """Return the tensors of a kind of model by the hub's names. Raises ModelError."""
        return read_tensors(self.spec, self.folder, wanted(self.shape, kind))

    def tokenizer(self) -> Any:
        """Return its tokenizer. Raises ModelError."""
        from tokenizers import Tokenizer

        try:
            if (self.folder / TOKENIZERS[0]).is_file():
                found = Tokenizer.from_str(_read_small(self.folder / TOKENIZERS[0]))
            else:
                found = _from_vocabulary(_read_small(self.folder / TOKENIZERS[1]))
        except Exception as error:
            raise ModelError(f"{self.spec}: cannot read its tokenizer: {error}") from error
        found.no_padding()
        found.no_truncation()
        largest = max(found.get_vocab().values(), default=0)
        if largest >= self.shape.words:
            raise ModelError(f"{self.spec}: its tokenizer has a token {largest}, the model knows {self.shape.words}")
        return found


def open_checkpoint(spec: str, kind: Kind) -> Checkpoint:
    """Return the checkpoint that `spec` names, fetched where it is on the hub, with its headers checked. Raises ModelError."""
    folder, revision = hub.fetched(spec, weights=True) if hub.names(spec) else (Path(spec), None)
    checkpoint = Checkpoint(spec, folder, _shape(spec, folder, kind), revision)
    check_headers(spec, folder, wanted(checkpoint.shape, kind))
    return checkpoint


def inspect(spec: str, kind: Kind) -> tuple[str | None, str | None, int]:
    """Check what can be checked of a spec without reading its weights; of the hub only small files are fetched.

    Returns its revision (of the hub), the sha256 of its weights, and the side of its pictures; of weights in several files it
    is that of their sha256s, as `sha256sum model-*.safetensors | sha256sum` prints it. Raises ModelError.
    """
    if not hub.names(spec):
        checkpoint = open_checkpoint(spec, kind)
        checkpoint.tokenizer()
        return None, digest(Path(spec)), checkpoint.shape.side
    folder, revision = hub.fetched(spec, weights=False)
    shape = _shape(spec, folder, kind)
    Checkpoint(spec, folder, shape, revision).tokenizer()
    if there(folder):
        check_headers(spec, folder, wanted(shape, kind))
    return revision, hub.sha256(spec, revision, shards(spec, folder)), shape.side


# Folders --------------------------------------------------------------------------------------------------------------


def _shape(spec: str, folder: Path, kind: Kind) -> Shape:
    """Return the shape that config.json describes. Raises ModelError where it is not a BLIP, or of none of this kind."""
    if folder.is_file() and folder.suffix in PICKLES:
        raise ModelError(f"{spec} {pickle_refused(folder)}")
    missing = [name for name in (CONFIG,) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append(f"{' or '.join(TOKENIZERS)}")
    if missing:
        raise ModelError(f"{spec}: {folder} holds no {', no '.join(missing)}{pickle_hint(folder)}")
    try:
        config = json.loads(_read_small(folder / CONFIG))
        _refuse_answerer(spec, config, kind)
        shape = _configured(config)
        problem = _contradiction(shape)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"{spec}: {CONFIG} does not describe a BLIP model: {error!r}") from error
    if problem is not None:
        raise ModelError(f"{spec}: {CONFIG} contradicts itself: {problem}")
    return shape


def _refuse_answerer(spec: str, config: dict[str, Any], kind: Kind) -> None:
    """Raise ModelError for a model of questions and answers as captioner: its tensors are those of one, its texts are not."""
    found = [str(name) for name in config.get("architectures") or () if "QuestionAnswering" in str(name)]
    if kind == "captioner" and found:
        raise ModelError(f"{spec}: {found[0]} answers questions and writes no captions; give a BlipForConditionalGeneration")


def _contradiction(shape: Shape) -> str | None:
    """Return why no model can have this shape, or None."""
    towers = (shape.vision, shape.text)
    sizes = [shape.side, shape.patch, shape.words, shape.positions, shape.shared]
    if min([*sizes, *(size for t in towers for size in (t.width, t.inner, t.layers, t.heads))]) < 1:
        return "a size is less than 1"
    if shape.side % shape.patch or any(tower.width % tower.heads for tower in towers):
        return "sizes are not multiples of patch or heads"
    if shape.encode >= shape.words or not all(0 <= token < shape.words for token in (shape.decode, shape.stop, shape.pad)):
        return f"a special token is none of the {shape.words} words ([ENC], the one after [DEC], among them)"
    if shape.positions < TEXT_TOKENS:
        return f"max_position_embeddings is {shape.positions}, too few for the {TEXT_TOKENS} tokens of a text"
    return None


def _configured(config: dict[str, Any]) -> Shape:
    """Return the shape of a config; what it leaves out has the value that transformers' BlipConfig gives it."""
    if config.get("model_type") != "blip":
        raise ValueError(f"model_type is {config.get('model_type')!r}, not 'blip'")
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    for one in (vision, text):
        if one.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"hidden_act is {one['hidden_act']!r}, not 'gelu'")
    return Shape(
        vision=_tower(vision, heads=12, epsilon=1e-5),
        text=_tower(text, heads=8, epsilon=1e-12),
        side=int(vision.get("image_size", 384)),
        patch=int(vision.get("patch_size", 16)),
        words=int(text.get("vocab_size", 30524)),
        positions=int(text.get("max_position_embeddings", 512)),
        shared=int(config.get("image_text_hidden_size", 256)),
        decode=int(text.get("bos_token_id", 30522)),
        stop=int(text.get("sep_token_id", 102)),
        pad=int(text.get("pad_token_id", 0)),
    )


def _tower(config: dict[str, Any], heads: int, epsilon: float) -> Tower:
    return Tower(
        width=int(config.get("hidden_size", 768)),
        inner=int(config.get("intermediate_size", 3072)),
        layers=int(config.get("num_hidden_layers", 12)),
        heads=int(config.get("num_attention_heads", heads)),
        epsilon=float(config.get("layer_norm_eps", epsilon)),
    )


def _read_small(path: Path) -> str:
    if path.stat().st_size > _SMALL:
        raise ValueError(f"{path.name} is larger than {_SMALL >> 20} MiB")
    return path.read_text("utf-8")


def _from_vocabulary(text: str) -> Any:
    """Return BERT's tokenizer of a vocabulary: lowercase, one word piece a line."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = {piece: number for number, piece in enumerate(text.splitlines())}
    found = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece()
    found.post_processor = processors.BertProcessing(("[SEP]", pieces["[SEP]"]), ("[CLS]", pieces["[CLS]"]))
    return found
