"""Weights of a checkpoint: one safetensors file, or several that an index lists; their headers are checked before any work."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.core.errors import ModelError
from curate.core.hashing import file_sha256
from curate.models.blip.network import Params, Sizes

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pth", ".pt", ".ckpt")
"""Suffixes of torch's files, which can run code when they are read."""

_ALIASES = {
    "text_decoder.cls.predictions.bias": "text_decoder.cls.predictions.decoder.bias",
    "text_decoder.bert.embeddings.word_embeddings.weight": "text_decoder.cls.predictions.decoder.weight",
}
"""Tensors that are one and the same: a file may hold them under either name."""

_NUMBERS = ("F32", "F16", "BF16")
_HEADER = 100 << 20  # bytes of a safetensors header: the format's own limit
_LARGEST_INDEX = 16 << 20  # bytes
_PART = re.compile(r"-\d+-of-\d+")
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


@dataclass(frozen=True)
class Stored:
    """What a header says of a tensor."""

    dtype: str
    size: tuple[int, ...]


def shards(spec: str, folder: Path) -> list[str]:
    """Return the names of the files that hold the weights, sorted: one, or those of the index. Raises ModelError."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [WEIGHTS]
    try:
        if (folder / INDEX).stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"it is larger than {_LARGEST_INDEX >> 20} MiB")
        files = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
        odd = next((file for file in files if not _SHARD.fullmatch(file)), None)
        if odd is not None or not files:
            raise ValueError("it lists no files" if odd is None else f"{odd!r} is no name of a safetensors file beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{spec}: cannot read {INDEX}: {error!r}") from error
    return files


def there(folder: Path) -> bool:
    """Return whether all files of the weights are in a folder. Raises ModelError for an index that cannot be read."""
    return all((folder / file).is_file() for file in shards(str(folder), folder))


def digest(folder: Path) -> str:
    """Return the sha256 of the weights in a folder. Raises OSError, ModelError."""
    return combined({file: file_sha256(folder / file) for file in shards(str(folder), folder)})


def combined(found: Mapping[str, str]) -> str:
    """Return the sha256 of weights from that of each file: of several, `sha256sum FILES | sha256sum`, files by name."""
    if len(found) == 1:
        return next(iter(found.values()))
    return hashlib.sha256("".join(f"{found[file]}  {file}\n" for file in sorted(found)).encode()).hexdigest()


def read_tensors(spec: str, folder: Path, names: Iterable[str]) -> Params:
    """Return tensors by the hub's names. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    wanted, found = {*names}, dict[str, Any]()
    for path in (folder / file for file in shards(spec, folder)):
        try:
            with safe_open(str(path), "pt") as file:
                held = {*file.keys()}
                for name in wanted - found.keys():
                    stored = name if name in held else _ALIASES.get(name)
                    if stored in held:
                        found[name] = file.get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{spec}: cannot read {path.name}: {error}") from error
    if lacking := sorted(wanted - found.keys()):
        raise ModelError(f"{spec}: its weights lack {lacking[0]}")
    return found


def check_headers(spec: str, folder: Path, sizes: Sizes) -> None:
    """Raise ModelError unless the safetensors files of a folder hold tensors of these names and sizes."""
    files = shards(spec, folder)
    found = _stored(spec, folder, files)
    found |= {name: found[alias] for name, alias in _ALIASES.items() if alias in found and name not in found}
    missing, said = [name for name in sizes if name not in found], files[0] if len(files) == 1 else INDEX
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        own = any(name.startswith("visual_encoder.") for name in found)
        hint = "; these are the names of BLIP's own repository, the hub has its models as hf:Salesforce/blip-NAME" if own else ""
        raise ModelError(f"{spec}: a checkpoint of another architecture: {said} lacks {missing[0]}{more}{hint}")
    if odd := next((name for name in sizes if found[name].dtype not in _NUMBERS), None):
        raise ModelError(f"{spec}: {said} has {odd} in {found[odd].dtype}; only {', '.join(_NUMBERS)} are read")
    for name, size in sizes.items():
        if found[name].size != size:
            told = f"{name} is {list(found[name].size)}, config.json says {list(size)}"
            raise ModelError(f"{spec}: a checkpoint of another size: {told}")


def _stored(spec: str, folder: Path, files: Iterable[str]) -> dict[str, Stored]:
    """Return what the headers say of all tensors, by name. Raises ModelError."""
    found: dict[str, Stored] = {}
    for path in (folder / file for file in files):
        try:
            tensors = header(path)
        except FileNotFoundError:
            raise ModelError(f"{spec}: {path} does not exist{pickle_hint(folder)}") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{spec}: {path} is not a safetensors file: {error}") from error
        if twice := sorted(tensors.keys() & found.keys()):
            raise ModelError(f"{spec}: {twice[0]} is in {path.name} and in another file")
        found |= tensors
    return found


def header(path: Path) -> dict[str, Stored]:
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
        return {name: Stored(str(about["dtype"]), tuple(map(int, about["shape"]))) for name, about in tensors.items()}
    except (KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"its header is damaged: {error!r}") from error


def pickle_hint(folder: Path) -> str:
    """Return what a message adds where there are pickles in place of safetensors files."""
    found = [path for path in folder.iterdir() if path.suffix in PICKLES] if folder.is_dir() else []
    others = sorted(found, key=lambda path: ("model" not in path.name, path.name))  # beside those of a training's state
    return f"; {others[0].name} {pickle_refused(others[0])}" if others else ""


def pickle_refused(path: Path) -> str:
    """Return what is said of a pickle: how it is converted, by the user, who knows where it is from."""
    return f"is a pickle, which is never read: convert it with {conversion(path)}"


def conversion(path: Path) -> str:
    """Return the command that writes safetensors of a state dict, or of one in parts (NAME-00001-of-00003.bin).

    It loads tensors only: torch refuses a pickle that names anything else.
    """
    several = _PART.sub("-*-of-*", path.name)
    files = f"[{str(path)!r}]" if several == path.name else f"pathlib.Path({str(path.parent)!r}).glob({several!r})"
    read = f"[d.update(torch.load(f, map_location='cpu', weights_only=True)) for f in {files}]"
    inner = "d = d.get('model', d.get('state_dict', d))"
    tensors = "{k: v.clone().contiguous() for k, v in d.items() if hasattr(v, 'clone')}"
    write = f"s.save_file({tensors}, {str(path.parent / WEIGHTS)!r})"
    code = f"import pathlib, torch, safetensors.torch as s; d = {{}}; {read}; {inner}; {write}"
    return f"python -c {shlex.quote(code)}"
