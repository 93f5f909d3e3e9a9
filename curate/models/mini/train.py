"""Train the mini models from WebDataset tars with human captions, and measure them on tars that were held out."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.core.errors import InputError
from curate.models.efficientnet import DIM
from curate.models.mini import captioner as mini_captioner
from curate.models.mini import model as mini
from curate.models.mini.features import (
    REGIONS,
    SIDE,
    TEXT_DIM,
    in_picture_blocks,
    load_language,
    load_vision,
    pooled_maps,
    pooled_states,
)
from curate.models.mini.measure import auc, bleu, cider, recall, reliability
from curate.models.mini.network import write_weights
from curate.models.mini.train_captioner import Say, train_captioner
from curate.models.mini.train_matcher import FEWEST, MISMATCHED, Pooled, evidence, fit_matcher
from curate.models.protocols import MODEL_ROWS, Floats, Pixels

_CHUNK = 250  # pairs per work item
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """Tars to train on and tars to measure on, where the weights go, epochs and worker processes."""

    tars: tuple[Path, ...]
    held_out: tuple[Path, ...]
    out: Path
    epochs: int
    workers: int


@dataclass(frozen=True)
class Pairs:
    """Pictures, RGB uint8 [n, SIDE, SIDE, 3], and the captions of each."""

    pictures: Pixels
    captions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Features:
    """Output of the frozen networks for Pairs: maps float16 [n, REGIONS, DIM], also mirrored, and texts [m, 2 * TEXT_DIM]."""

    plain: npt.NDArray[np.float16]
    mirrored: npt.NDArray[np.float16]
    texts: Floats
    captions: tuple[tuple[str, ...], ...]

    def pooled(self) -> Pooled:
        """Return the input for fitting the matcher."""
        owners = np.repeat(np.arange(len(self.captions)), [len(texts) for texts in self.captions])
        return Pooled(_pooled(self.plain), _pooled(self.mirrored), self.texts, owners)


def train(task: Task, say: Say) -> dict[str, Any]:
    """Write the weights of captioner and matcher into task.out; return sizes, seconds, and what was measured.

    The matcher is fitted in a separate process while the captioner trains. Raises InputError.
    """
    import torch

    torch.set_num_threads(1)  # the same order of sums on every machine
    began = time.monotonic()
    pairs = read_pairs(task.tars)
    if len(pairs.captions) < FEWEST:
        raise InputError(f"{len(pairs.captions)} pictures with captions are too few to train on: {FEWEST} at least")
    held = read_pairs(task.held_out) if task.held_out else None
    for name in _ONE_THREAD:  # read by the libraries when a spawned process loads them
        os.environ.setdefault(name, "1")
    with ProcessPoolExecutor(task.workers, mp_context=get_context("spawn")) as pool:
        found = features(pairs, pool, say)
        fitted = pool.submit(_fit, found.pooled(), task.out)
        weights, words = train_captioner((found.plain, found.mirrored), found.captions, task.epochs, say)
        write_weights(task.out / mini_captioner.FILE, weights, {"kind": mini_captioner.KIND, "words": words})
        fitted.result()
        files = {name: (task.out / name).stat().st_size for name in (mini_captioner.FILE, mini.FILE)}
        seconds = round(time.monotonic() - began)
        result = {"pictures": len(pairs.captions), "words": len(words), "files": files, "seconds": seconds}
        return result if held is None else {**result, "measured": measure(task.out, features(held, pool, say), say)}


def measure(folder: Path, held: Features, say: Say) -> dict[str, Any]:
    """Return the figures of the weights in `folder` on pictures that they were not trained on."""
    figures: dict[str, Any] = {"pictures": len(held.captions)}
    for name, greedy in (("greedy", True), ("nucleus", False)):
        written = _captions(folder, held.plain, greedy=greedy)
        figures[name] = {"cider": round(cider(written, held.captions), 1), "bleu4": round(bleu(written, held.captions), 1)}
        say(f"measured: {name} captions")
    space, pooled = mini.Space.load(folder), held.pooled()
    own, other = (space.chances(pairs) for pairs in evidence(space, pooled, np.random.default_rng(2)))
    error, table = reliability(own, other, MISMATCHED)
    figures["matcher"] = {
        "auc": round(auc(own, other), 4),
        "matches_kept": round(float((own >= 0.5).mean()), 4),
        "mismatches_dropped": round(float((other < 0.5).mean()), 4),
        "assumed_mismatches": MISMATCHED,
        "calibration_error": round(error, 4),
        "reliability": table,
    }
    vectors = (space.project("image", pooled.plain), space.project("text", pooled.texts))
    return {**figures, "embedder": recall(*vectors, pooled.owners)}


def read_pairs(tars: Sequence[Path]) -> Pairs:
    """Return the pictures of tars (key.jpg, key.json with `captions`), squashed, by tar and key. Raises InputError."""
    from PIL import Image

    pictures, captions = [], []
    for path in tars:
        for key, files in _samples(path):
            try:
                texts = tuple(str(text) for text in json.loads(files["json"])["captions"])
                image = Image.open(io.BytesIO(files["jpg"])).convert("RGB")
            except (KeyError, TypeError, ValueError, OSError) as error:
                raise InputError(f"{path}: sample {key} has no key.jpg and key.json with captions: {error!r}") from error
            if texts:
                pictures.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
                captions.append(texts)
    if not pictures:
        raise InputError(f"{', '.join(map(str, tars))}: no pictures with captions")
    return Pairs(np.stack(pictures), tuple(captions))


def features(pairs: Pairs, pool: Executor, say: Say) -> Features:
    """Return the output of the frozen networks for pairs, computed by a pool of processes."""
    starts = range(0, len(pairs.captions), _CHUNK)
    chunks = [Pairs(pairs.pictures[s : s + _CHUNK], pairs.captions[s : s + _CHUNK]) for s in starts]
    found: list[Features] = []
    for part in pool.map(_features, chunks):
        found.append(part)
        say(f"features: {min(len(pairs.captions), len(found) * _CHUNK)} of {len(pairs.captions)} pictures")
    plain, mirrored = (np.concatenate([getattr(part, name) for part in found]) for name in ("plain", "mirrored"))
    return Features(plain, mirrored, np.concatenate([part.texts for part in found]), pairs.captions)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, bytes by extension), sorted by key."""
    samples: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    key, _, extension = member.name.rpartition(".")
                    samples.setdefault(key, {})[extension] = file.read()
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    yield from sorted(samples.items())


def _features(pairs: Pairs) -> Features:
    plain, mirrored = _maps(pairs.pictures), _maps(np.ascontiguousarray(pairs.pictures[:, :, ::-1]))
    language = load_language()
    texts = [pooled_states(language.states(text)) for text in (text for texts in pairs.captions for text in texts)]
    return Features(plain, mirrored, np.array(texts, np.float32).reshape(-1, 2 * TEXT_DIM), pairs.captions)


def _maps(pictures: Pixels) -> npt.NDArray[np.float16]:
    vision, out = load_vision(), np.empty((len(pictures), REGIONS, DIM), np.float16)
    for start, rows, block in in_picture_blocks(pictures):
        out[start : start + rows] = vision.maps(block)[:rows]
    return out


def _pooled(maps: npt.NDArray[np.float16]) -> Floats:
    return np.concatenate([pooled_maps(maps[s : s + _CHUNK].astype(np.float32)) for s in range(0, len(maps), _CHUNK)])


def _fit(pooled: Pooled, out: Path) -> None:
    write_weights(out / mini.FILE, fit_matcher(pooled), {"kind": mini.KIND})


def _captions(folder: Path, maps: npt.NDArray[np.float16], *, greedy: bool) -> list[str]:
    """Return one caption of each map by the weights in `folder`, with the settings of `Sampling`, or greedy."""
    model = mini_captioner.MiniCaptioner.load(folder, greedy=greedy)
    draws = np.random.default_rng(2).random((len(maps), 1, model.max_tokens), np.float32)
    out: list[str] = []
    for start in range(0, len(maps), MODEL_ROWS):
        rows = len(maps[start : start + MODEL_ROWS])
        block, given = np.zeros((MODEL_ROWS, REGIONS, DIM), np.float32), np.zeros((MODEL_ROWS, *draws.shape[1:]), np.float32)
        block[:rows], given[:rows] = maps[start : start + rows], draws[start : start + rows]
        out += [several[0].text for several in model.written(block, given)[:rows]]
    return out
