"""Checkpoints of BLIP: a folder, or a repository of the hub at a fixed revision; checked by their headers before any work.

Only config.json, the tokenizer and model.safetensors are ever read: no pickle, no code that comes with a model.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from curate.core.errors import ModelError
from curate.core.hashing import file_sha256
from curate.models.blip.network import Params, Shape, Sizes, Tower, wanted

Kind = Literal["captioner", "matcher", "embedder"]

REVISIONS = {
    "Salesforce/blip-image-captioning-base": "89b09ea1789f7addf2f6d6f0dfc4ce10ab58ef84",
    "Salesforce/blip-image-captioning-large": "2227ac38c9f16105cb0412e7cab4759978a8fd90",
    "Salesforce/blip-itm-base-coco": "7eaa90c11850c0b17fc38c6a11e7d88bd6ac231f",
    "Salesforce/blip-itm-large-coco": "fef05cafc05298067cbbca00b125749394a77a6f",
}
"""What a spec without a revision means; other repositories must be given one."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TEXT_TOKENS = 35
"""Of a text that is matched at most, as in the authors' matcher (blip_itm.py)."""

TOKENIZERS = ("tokenizer.json", "vocab.txt")
"""Files with the words of the text transformer; the first that is there is read."""

_ALIASES = {
    "text_decoder.cls.predictions.bias": "text_decoder.cls.predictions.decoder.bias",
    "text_decoder.bert.embeddings.word_embeddings.weight": "text_decoder.cls.predictions.decoder.weight",
}
"""Tensors that are one and the same: a file may hold them under either name."""

_NUMBERS = ("F32", "F16", "BF16")
_SMALL = 16 << 20  # bytes of a config or tokenizer that is read at all
_HEADER = 100 << 20  # bytes of a safetensors header: the format's own limit
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with a config and a header that agree; `revision` is that of the hub, None for a folder."""

    spec: str
    folder: Path
    shape: Shape
    revision: str | None = None

    def tensors(self, kind: Kind) -> Params:
        """Return the tensors of a kind of model by the hub's names. Raises ModelError."""
        from safetensors import SafetensorError, safe_open

        names = wanted(self.shape, kind)
        try:
            with safe_open(str(self.folder / WEIGHTS), "pt") as file:
                there = set(file.keys())
                return {name: file.get_tensor(name if name in there else _ALIASES[name]) for name in names}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{self.spec}: cannot read {WEIGHTS}: {error}") from error

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
    """Return the checkpoint that `spec` names, fetched where it is on the hub, with its header checked. Raises ModelError."""
    folder, revision = _fetched(spec, weights=True) if spec.startswith("hf:") else (Path(spec), None)
    checkpoint = Checkpoint(spec, folder, _shape(spec, folder), revision)
    _check_header(spec, folder / WEIGHTS, wanted(checkpoint.shape, kind))
    return checkpoint


def inspect(spec: str, kind: Kind) -> tuple[str | None, str | None, int]:
    """Check what can be checked of a spec without reading its weights; of the hub only small files are fetched.

    Returns its revision (of the hub), the sha256 of its weights, and the side of its pictures. Raises ModelError.
    """
    if not spec.startswith("hf:"):
        checkpoint = open_checkpoint(spec, kind)
        checkpoint.tokenizer()
        return None, file_sha256(Path(spec) / WEIGHTS), checkpoint.shape.side
    folder, revision = _fetched(spec, weights=False)
    shape = _shape(spec, folder)
    Checkpoint(spec, folder, shape, revision).tokenizer()
    if (folder / WEIGHTS).is_file():
        _check_header(spec, folder / WEIGHTS, wanted(shape, kind))
    return revision, _sha256_on_hub(spec, revision), shape.side


# Folders --------------------------------------------------------------------------------------------------------------


def _shape(spec: str, folder: Path) -> Shape:
    """Return the shape that config.json describes. Raises ModelError where it is not a BLIP."""
    missing = [name for name in (CONFIG,) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append(f"{' or '.join(TOKENIZERS)}")
    if missing:
        raise ModelError(f"{spec}: {folder} holds no {', no '.join(missing)}")
    try:
        config = json.loads(_read_small(folder / CONFIG))
        shape = _configured(config)
        problem = _contradiction(shape)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"{spec}: {CONFIG} does not describe a BLIP model: {error!r}") from error
    if problem is not None:
        raise ModelError(f"{spec}: {CONFIG} contradicts itself: {problem}")
    return shape


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


def _check_header(spec: str, path: Path, sizes: Sizes) -> None:
    """Raise ModelError unless a safetensors file holds tensors of these names and sizes."""
    try:
        found = _header(path)
    except FileNotFoundError:
        others = [p.name for p in path.parent.glob("*.bin")] if path.parent.is_dir() else []
        hint = f"; {others[0]} is a pickle, which is never read: save the model as safetensors" if others else ""
        raise ModelError(f"{spec}: {path} does not exist{hint}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec}: {path} is not a safetensors file: {error}") from error
    found |= {name: found[alias] for name, alias in _ALIASES.items() if alias in found and name not in found}
    missing = [name for name in sizes if name not in found]
    if not missing and (odd := next((name for name in sizes if found[name].dtype not in _NUMBERS), None)):
        raise ModelError(f"{spec}: {WEIGHTS} has {odd} in {found[odd].dtype}; only {', '.join(_NUMBERS)} are read")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{spec}: a checkpoint of another architecture: {WEIGHTS} lacks {missing[0]}{more}")
    for name, size in sizes.items():
        if found[name].size != size:
            said = f"{name} is {list(found[name].size)}, {CONFIG} says {list(size)}"
            raise ModelError(f"{spec}: a checkpoint of another size: {said}")


@dataclass(frozen=True)
class _Tensor:
    """What a header says of a tensor."""

    dtype: str
    size: tuple[int, ...]


def _header(path: Path) -> dict[str, _Tensor]:
    """Return what a safetensors file's header says of its tensors, by name. Raises OSError, ValueError."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _HEADER + 1
        if length > _HEADER:
            raise ValueError("no header")
        body = file.read(length)
        size = path.stat().st_size - 8 - length
    try:
        header = json.loads(body)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    try:
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        if max((about["data_offsets"][1] for about in tensors.values()), default=0) > size:
            raise ValueError("it is cut off")
        return {name: _Tensor(str(about["dtype"]), tuple(map(int, about["shape"]))) for name, about in tensors.items()}
    except (KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"its header is damaged: {error!r}") from error


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


# The hub --------------------------------------------------------------------------------------------------------------


def _named(spec: str) -> tuple[str, str]:
    """Return repository and revision of hf:ORGANISATION/NAME[@REVISION]. Raises ModelError."""
    name, _, revision = spec.removeprefix("hf:").partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ModelError(f"{spec}: write hf:ORGANISATION/NAME[@REVISION]")
    revision = revision or REVISIONS.get(name, "")
    if not _REVISION.fullmatch(revision):
        raise ModelError(f"{spec}: name the revision, a commit of 40 hex digits, as hf:{name}@REVISION: a branch may move")
    return name, revision


def _fetched(spec: str, *, weights: bool) -> tuple[Path, str]:
    """Return the folder of a hub repository's files, from the cache or fetched, and its revision. Raises ModelError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download

    name, revision = _named(spec)
    wanted_files = [CONFIG, *TOKENIZERS, *([WEIGHTS] if weights else [])]

    def get(*, offline: bool) -> Path:
        patterns: Any = wanted_files
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))

    cached = _or_none(lambda: get(offline=True))
    needed = (CONFIG, *([WEIGHTS] if weights else []))
    if cached and all((cached / file).is_file() for file in needed) and any((cached / file).is_file() for file in TOKENIZERS):
        return cached, revision
    _asking_hub(spec, lambda: get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision)))  # fails at once, unlike a fetch
    return _asking_hub(spec, lambda: get(offline=False)), revision


def _or_none(call: Callable[[], Path]) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return call()
    except LocalEntryNotFoundError:
        return None


def _asking_hub(spec: str, call: Callable[[], Any]) -> Any:
    """Return what a call to the hub returns. Raises ModelError, in one line, whatever comes between."""
    from huggingface_hub import errors

    name, revision = _named(spec)
    try:
        return call()
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{spec}: the hub has no such model, or you have no access to it (log in with `hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{spec}: the hub's model has no revision {revision}") from error
    except errors.RemoteEntryNotFoundError as error:
        reason = f"at revision {revision} the hub has no {WEIGHTS} of it; a pickle is never read"
        raise ModelError(f"{spec}: {reason}: convert it, and give the folder instead") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = f"fetch it where there is a network: hf download {name} --revision {revision} --local-dir FOLDER; give FOLDER"
        raise ModelError(f"{spec}: not in the cache, and the hub cannot be reached ({reason}); {hint}") from error


def _sha256_on_hub(spec: str, revision: str) -> str | None:
    """Return the sha256 of the weights as the hub or its cache reports it. Raises ModelError when the hub has none."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    name, _ = _named(spec)
    cached = try_to_load_from_cache(name, WEIGHTS, revision=revision)
    if isinstance(cached, str):
        blob = Path(cached).resolve().name  # the cache names large files by their sha256
    else:
        blob = _asking_hub(spec, lambda: get_hf_file_metadata(hf_hub_url(name, WEIGHTS, revision=revision)).etag) or ""
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
