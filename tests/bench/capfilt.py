"""CapFilt's models beside a plain transformers loop with the same weights, and beside the machine's matrix rate.

Weights are random: speed does not depend on them. Every caption is forced to 20 tokens. A GPU runs BLIP-large's shape, a CPU
a small one on one core. All run in bfloat16, as the recipes say; on a CPU the loop also runs in float32, and the faster counts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.models.blip.checkpoint import open_checkpoint
from curate.models.blip.model import TEXT_TOKENS, BlipCaptioner, BlipMatcher, cleaned
from curate.models.blip.network import MEAN, STD, Shape
from curate.models.protocols import Compute, Sampling
from tests import blips
from tests.bench.measure import Figure, at_least, median, rounded, scratch

TOKENS = 20
PROMPT_TOKENS = 4
SAMPLING = Sampling(min_tokens=TOKENS, max_tokens=TOKENS)
TEXTS = (17, 25)
"""Tokens of the web text below, and about those of a caption of random tokens."""

WEB_TEXT = "A brown dog runs through the high grass of a park, its owner behind it."

LARGE = {
    "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
SMALL = {
    "vision": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6,
               "image_size": 224},
    "text": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6},
}  # fmt: skip

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Setting:
    """What is measured on this machine: `matrix` is the side of the square matrices whose product is the machine's rate."""

    gpu: bool
    shape: dict[str, Any]
    images: int
    batch: int
    repeats: int
    matrix: int

    @property
    def device(self) -> str:
        """Return the models' device."""
        return "cuda" if self.gpu else "cpu"

    def seconds_of(self, work: Callable[[], object]) -> float:
        """Return what a call takes: seconds until a GPU is done, or processor seconds, which other programs do not lengthen."""
        import torch

        clock = time.perf_counter if self.gpu else time.process_time
        started = clock()
        work()
        if self.gpu:
            torch.cuda.synchronize()
        return clock() - started


def setting() -> Setting:
    """Return what this machine is to measure."""
    import torch

    if torch.cuda.is_available():
        return Setting(gpu=True, shape=LARGE, images=1024, batch=128, repeats=3, matrix=8192)
    return Setting(gpu=False, shape=SMALL, images=64, batch=16, repeats=3, matrix=1024)


def flops(shape: Shape, texts: Sequence[int]) -> float:
    """Return the floating-point operations of an image: both encoders, TOKENS tokens written, texts of these lengths matched."""
    v, t, regions = shape.vision, shape.text, shape.regions
    seen = 2 * regions * (3 * shape.patch**2 * v.width + v.layers * (4 * v.width**2 + 2 * v.width * v.inner))
    seen += v.layers * 4 * regions**2 * v.width
    memory = 2 * regions * v.width * t.layers * 2 * t.width
    token = 2 * t.layers * (6 * t.width**2 + 2 * t.width * t.inner) + t.layers * 4 * regions * t.width
    head = 2 * t.width * (t.width + shape.words)
    written = (PROMPT_TOKENS + TOKENS - 1) * token + TOKENS * head
    written += t.layers * 4 * t.width * sum(range(PROMPT_TOKENS + TOKENS))
    matched = sum(length * token + t.layers * 4 * t.width * length**2 for length in texts)
    return float(2 * (seen + memory) + written + matched)


def matrix_rate(where: Setting) -> float:
    """Return the machine's floating-point operations a second in a product of two large matrices of the models' dtype."""
    import torch

    one = torch.randn(where.matrix, where.matrix, device=where.device, dtype=torch.bfloat16)
    count = 20

    def multiply() -> None:
        for _ in range(count):
            torch.mm(one, one)

    multiply()
    return 2 * where.matrix**3 * count / min(where.seconds_of(multiply) for _ in range(5))


class Plain:
    """What a careful user of transformers writes: generate for a batch, then the matcher for the web texts and the captions."""

    def __init__(self, where: Setting, models: dict[str, Any], tokenizer: Any, dtype: Any) -> None:
        self._where, self._tokenizer, self._dtype = where, tokenizer, dtype
        self._captioner = copy.deepcopy(models["captioner"]).to(where.device, dtype)
        self._matcher = copy.deepcopy(models["matcher"]).to(where.device, dtype)

    def run(self, pictures: Pixels) -> list[tuple[float, float]]:
        """Return the scores of web text and caption of each picture."""
        import torch

        found: list[tuple[float, float]] = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self._where.batch):
                inputs = self._inputs(pictures[start : start + self._where.batch])
                prompt = torch.tensor([[30522, 1037, 3861, 1997, 102]], device=self._where.device).repeat(len(inputs), 1)
                written = self._captioner.generate(
                    inputs, input_ids=prompt, do_sample=True, top_p=0.9, top_k=50, repetition_penalty=1.1,
                    min_new_tokens=TOKENS, max_new_tokens=TOKENS,
                )  # fmt: skip
                captions = [self._tokenizer.decode([i for i in row if i < 30522]) for row in written[:, PROMPT_TOKENS:].tolist()]
                scores = [self._scores(inputs, texts) for texts in ([WEB_TEXT] * len(inputs), captions)]
                found += list(zip(*scores, strict=True))
        return found

    def _inputs(self, pictures: Pixels) -> Any:
        import torch

        scaled = (pictures.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        tensor = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))
        return tensor.to(self._where.device, self._dtype)

    def _scores(self, inputs: Any, texts: Sequence[str]) -> list[float]:
        import torch

        encoded = [self._tokenizer.encode(cleaned(text)).ids[:TEXT_TOKENS] for text in texts]
        longest = max(map(len, encoded))
        ids = torch.tensor([[30523, *one[1:], *[0] * (longest - len(one))] for one in encoded], device=self._where.device)
        logits = self._matcher(ids, inputs, attention_mask=(ids != 0).long()).itm_score
        scores: list[float] = torch.softmax(logits.float(), -1)[:, 1].tolist()
        return scores


@dataclass(frozen=True)
class Ours:
    """The captioner and the matcher as the stages call them."""

    captioner: BlipCaptioner
    matcher: BlipMatcher

    def run(self, pictures: Pixels) -> list[list[float]]:
        """Return the scores of web text and caption of each picture."""
        draws = np.random.default_rng(1).random((len(pictures), 1, TOKENS), np.float32)
        captions = self.captioner.captions(pictures, draws)
        return self.matcher.match(pictures, [[WEB_TEXT, *several] for several in captions])


def contestants(folder: Path, where: Setting) -> tuple[dict[str, Ours | Plain], Shape]:
    """Return who runs, all with the same weights, and the models' shape."""
    import torch

    models = {kind: blips.save(folder / kind, where.shape, kind) for kind in ("captioner", "matcher")}
    checkpoint = open_checkpoint(str(folder / "captioner"), "captioner")
    compute = Compute(where.batch)
    captioner = BlipCaptioner.load(str(folder / "captioner"), SAMPLING, compute)
    matcher = BlipMatcher.load(str(folder / "matcher"), compute)
    found: dict[str, Ours | Plain] = {"ours": Ours(captioner, matcher)}
    for dtype in (torch.bfloat16,) if where.gpu else (torch.bfloat16, torch.float32):
        found[f"plain {dtype}".replace("torch.", "")] = Plain(where, models, checkpoint.tokenizer(), dtype)
    return found, checkpoint.shape


def run() -> list[Figure]:
    """Measure all in turn, and the matrix rate before and after."""
    import torch

    where = setting()
    torch.set_num_threads(1)  # as a worker has
    with scratch() as folder:
        running, shape = contestants(folder, where)
        pictures = np.random.default_rng(2).integers(0, 256, (where.images, shape.side, shape.side, 3), np.uint8)
        seconds: dict[str, list[float]] = {name: [] for name in running}
        rates = [matrix_rate(where)]
        for one in running.values():
            one.run(pictures[: where.batch])
        for _ in range(where.repeats):
            for name, one in running.items():
                seconds[name].append(where.seconds_of(lambda one=one: one.run(pictures)))
            rates.append(matrix_rate(where))
    rate, gflop = where.images / median(seconds["ours"]), flops(shape, TEXTS) / 1e9
    share = gflop * 1e9 * rate / median(rates)
    fastest = min((name for name in running if name != "ours"), key=lambda name: median(seconds[name]))
    faster = median([plain / one for plain, one in zip(seconds[fastest], seconds["ours"], strict=True)])
    more = {"images_per_second": {name: round(where.images / median(several), 2) for name, several in seconds.items()},
            "seconds": {name: rounded(several) for name, several in seconds.items()}, "images": where.images,
            "batch": where.batch, "gflop_an_image": round(gflop, 1), "tflops": round(gflop * rate / 1e3, 3),
            "matrix_tflops": rounded([value / 1e12 for value in rates]), "against": fastest,
            "device": torch.cuda.get_device_name() if where.gpu else "one core, processor seconds"}  # fmt: skip
    return [
        at_least("capfilt", faster, "times the plain loop", 4.0 if where.gpu else 1.5, more),
        at_least("capfilt_share_of_matrix_rate", share, "of bfloat16 products", 0.5 if where.gpu else 0.4),
    ]
