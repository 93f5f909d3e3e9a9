"""Embeddings: every score over one model reads the same vectors, which are computed where a score is missing and never stored."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from curate.cli import main
from curate.core.errors import RecipeError
from curate.core.facts import FACTS
from curate.images.picture import PIXELS_SIDE
from curate.models import ModelEntry, register
from curate.models.fakes import FakeEmbedder
from curate.models.protocols import Floats, Pixels
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.stages.embedding import EmbeddingStage, vectors_of
from curate.stages.evalsets import signatures
from curate.stages.pixels import picture_column
from tests.running import Setup, decisions, jpeg, leftovers, make_tar, run_job, written

ROWS = 8
COPY = 3  # the row with the image of the evaluation set
LONG = (0, 2, 3, 5, 7)  # rows with a text of more than one word

BOTH = """
filters:
  unreadable:
  eval_overlap: {embedder: SPEC, similarity: 0.99}
  caption_words: {min_words: 2}
  clip_similarity: {embedder: SPEC, at_least: -0.99}
output: {samples_per_shard: 4, block_shards: 1}
"""

FIRST = "".join(line for line in BOTH.splitlines(keepends=True) if "clip_similarity" not in line)

PLUGIN = '''
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate import Fact, Filter, Stage, threshold


@dataclass(frozen=True)
class FirstStage(Stage):
    """The first number of the vector."""

    name = "first_number"
    facts = (Fact("first_number", pa.float32(), "image", "first number of the vector"),)
    reads = ("embedding:SPEC",)

    def __call__(self, batch):
        return self.answer(batch, range(batch.num_rows), pc.list_element(batch["embedding:SPEC"], 0).to_pylist())


@dataclass(frozen=True)
class FirstNumber(Filter):
    """Drop images whose vector starts with less than `at_least`."""

    about = "image"
    paper = "none"
    evidence = pa.float32()

    at_least: float = threshold(-2.0, "least number")

    def reads(self):
        return (READS,)

    def provider(self):
        return FirstStage()

    def measure(self, batch):
        return batch["first_number"]

    def keep(self, evidence):
        return pc.fill_null(pc.greater_equal(evidence, self.at_least), fill_value=True)
'''


@dataclass(frozen=True)
class CountingEmbedder:
    """Writes a line for each picture that it embeds."""

    name: str
    log: Path
    dim: int = FakeEmbedder.dim

    def embed(self, pixels: Pixels) -> Floats:
        with self.log.open("a") as file:
            file.writelines(f"{hash(picture.tobytes())}\n" for picture in pixels)
        return FakeEmbedder().embed(pixels)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        return FakeEmbedder().embed_texts(texts)


@dataclass(frozen=True)
class Case:
    """A shard, a set with the image of row COPY, and an embedder that counts."""

    folder: Path
    spec: str

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def run(self, recipe: str) -> None:
        """Run a recipe into OUT."""
        sets = f"eval_overlap.sets={self.folder / 'evals'}"
        outcome = run_job(Setup(recipe.replace("SPEC", self.spec), [self.folder / "0.tar"], (sets,)), self.out)
        assert (outcome.failed, outcome.records) == ([], ROWS)

    def embedded(self) -> list[int]:
        """Return how often each picture was embedded since the last call."""
        log = self.folder / "log"
        times = Counter(log.read_text().splitlines())
        log.write_text("")
        return list(times.values())


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "cache"))
    spec = f"counting-{tmp_path.name}"
    log = tmp_path / "log"
    register(ModelEntry(spec, ("text_embedder",), load=lambda _: CountingEmbedder(spec, log)))
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "copy.jpg").write_bytes(jpeg(COPY))
    texts = {f"{row}.txt": b"a long text" if row in LONG else b"short" for row in range(ROWS)}
    images = {f"{row}.jpg": jpeg(row) for row in range(ROWS)}
    make_tar(tmp_path / "0.tar", sorted((images | texts).items()))
    signatures(str(tmp_path / "evals"), "embedding", spec, tmp_path / "cache")
    log.write_text("")
    return Case(tmp_path, spec)


def test_two_scores_of_one_model_embed_each_image_once(case: Case) -> None:
    case.run(BOTH)
    assert case.embedded() == [1] * ROWS
    found = [row["dropped_by"] for row in decisions(case.out)]
    assert found == ["eval_overlap" if row == COPY else None if row in LONG else "caption_words" for row in range(ROWS)]
    kept = [row for row in decisions(case.out) if row["dropped_by"] is None]
    assert all(abs(row["clip_similarity"]) < 1 for row in kept)


def test_a_changed_threshold_embeds_nothing(case: Case) -> None:
    case.run(BOTH)
    case.embedded()
    case.run(BOTH.replace("-0.99", "0.99").replace("similarity: 0.99", "similarity: 1.0"))
    assert "clip_similarity" in {row["dropped_by"] for row in decisions(case.out)}
    assert case.embedded() == []


def test_another_score_embeds_only_the_rows_that_it_lacks(case: Case) -> None:
    case.run(FIRST)
    assert case.embedded() == [1] * ROWS
    case.run(BOTH)
    assert case.embedded() == [1] * (len(LONG) - 1)
    added = written(case.out)
    whole = dataclasses.replace(case, folder=case.folder / "whole")
    whole.folder.mkdir()
    for name in ("0.tar", "evals"):
        (whole.folder / name).symlink_to(case.folder / name)
    whole.run(BOTH)
    differing = {name for name, _ in written(whole.out).items() ^ added.items()}
    assert all("manifest" in name for name in differing)


def test_a_plugin_reads_an_embedding_without_registering_it(case: Case) -> None:
    (case.folder / "mine.py").write_text(PLUGIN.replace("SPEC", case.spec).replace("READS", '"first_number"'))
    case.run("plugins: [mine.py]\nfilters:\n  first_number:\n  eval_overlap: {method: hash}\n")
    assert case.embedded() == [1] * ROWS
    assert all(-1 < row["first_number"] < 1 for row in decisions(case.out))
    case.run("plugins: [mine.py]" + BOTH.replace("output:", "  first_number:\noutput:"))
    assert case.embedded() == [1] * ROWS  # for eval_overlap; clip_similarity reads the same vectors
    case.run("plugins: [mine.py]" + BOTH.replace("output:", "  first_number: {at_least: 2.0}\noutput:"))
    assert case.embedded() == []
    assert "first_number" in {row["dropped_by"] for row in decisions(case.out)}


def test_no_vector_is_stored(case: Case) -> None:
    case.run(BOTH)
    files = list(case.out.rglob("*.parquet"))
    names = {name for file in files for name in pq.read_schema(file).names}
    assert {"eval_similarity", "clip_scores"} <= names and not [name for name in names if "embedding" in name]
    assert not list(case.out.glob("facts/embedding*")) and leftovers(case.out) == []


def test_a_filter_cannot_read_vectors(case: Case) -> None:
    (case.folder / "mine.py").write_text(PLUGIN.replace("SPEC", case.spec).replace("READS", f'"embedding:{case.spec}"'))
    (case.folder / "recipe.yaml").write_text("plugins: [mine.py]\nfilters:\n  first_number:\n")
    with pytest.raises(RecipeError, match=f"first_number reads embedding:{case.spec}: only a stage can"):
        planning.plan(recipes.load(str(case.folder / "recipe.yaml")))


def test_the_plan_shows_each_embedding_once_and_damaged_images_end_before_it(tmp_path: Path) -> None:
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "1.jpg").write_bytes(jpeg(1))
    overlap = f"eval_overlap: {{embedder: fake, sets: [{tmp_path}/evals]}}"
    (tmp_path / "recipe.yaml").write_text(f"filters:\n  caption_words:\n  clip_similarity: {{embedder: fake}}\n  {overlap}\n")
    plan = planning.plan(recipes.load(str(tmp_path / "recipe.yaml")))
    assert [step.name for step in plan.steps] == ["caption_words", "unreadable", "clip_similarity", "eval_overlap"]
    assert [stage.name for stage in plan.stages()] == ["decode", "embedding:fake", "clip", "eval_similarity", "language"]
    assert plan.decode.view == "rgb" and "embedding:fake" not in FACTS
    answer = CliRunner().invoke(main, ["plan", str(tmp_path / "recipe.yaml"), "--json"])
    assert ["judge", "alive before clip_similarity", "embedding:fake", "12 ms"] in [
        list(row.values()) for row in json.loads(answer.stdout)["passes"]
    ]


def test_vectors_survive_their_column() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, PIXELS_SIDE, PIXELS_SIDE, 3), np.uint8)
    column = picture_column([pixels[0], None, pixels[1], pixels[2], None], PIXELS_SIDE)
    batch = EmbeddingStage("fake")(pa.record_batch({"pixels": column}))
    assert batch.schema.field("embedding:fake").type == pa.list_(pa.float32())
    vectors, rows = vectors_of(batch, "fake")
    assert rows.tolist() == [0, 2, 3] and np.array_equal(vectors, FakeEmbedder().embed(pixels))
    vectors, rows = vectors_of(batch.slice(1, 2), "fake")
    assert rows.tolist() == [1] and np.array_equal(vectors, FakeEmbedder().embed(pixels[1:2]))
    vectors, rows = vectors_of(batch.slice(1, 1), "fake")
    assert (len(vectors), rows.tolist()) == (0, [])
