"""Evaluation sets, the stages that search them, block lists, and the calibration of a threshold."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.core.contracts import Batch, Stage
from curate.core.errors import InputError
from curate.report.calibrate import EDITS, calibrate, edited, pick, table, wilson
from curate.stages.blocklist import BlocklistStage
from curate.stages.embedding import EmbeddingStage
from curate.stages.eval_overlap import EvalDistanceStage, EvalSimilarityStage
from curate.stages.evalsets import EvalSetRef, Member, decoded, default_cache, members, signatures, thumbnail, unresolved
from curate.stages.nearest import nearest_hashes, nearest_vectors
from curate.stages.nsfw import NsfwStage
from curate.stages.pixels import pixels_of

WIDTH = 256 * 256 * 3


def image(seed: int, form: str = "PNG") -> bytes:
    """A 96 x 64 image of coarse noise, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC).save(out, form)
    return out.getvalue()


def folder_of(path: Path, seeds: range) -> Path:
    (path / "deep").mkdir(parents=True)
    for seed in seeds:
        (path / ("deep" if seed % 2 else ".") / f"{seed:03d}.png").write_bytes(image(seed))
    (path / "notes.txt").write_text("no image")
    return path


def batch_of(seeds: list[int]) -> Batch:
    (_, batch), *rest = decoded([Member(str(seed), image(seed)) for seed in seeds])
    assert not rest
    return batch


def with_nulls(batch: Batch, name: str, rows: set[int]) -> Batch:
    column = batch.column(name)
    values = [None if row in rows else value for row, value in enumerate(column.to_pylist())]
    return batch.set_column(batch.schema.get_field_index(name), name, pa.array(values, column.type))


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "evals", range(5))


# Sets


def test_a_set_is_read_once_whatever_its_place(evals: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ref = signatures(str(evals), "embedding", "fake", cache)
    assert (ref.name, ref.images, ref.unreadable) == ("evals", 5, ())
    made = Path(ref.folder, "signatures.npy").stat().st_mtime_ns
    moved = evals.rename(tmp_path / "moved")
    again = signatures(str(moved), "embedding", "fake", cache)
    assert (again.digest, again.folder) == (ref.digest, ref.folder)
    assert Path(again.folder, "signatures.npy").stat().st_mtime_ns == made
    (moved / "000.png").write_bytes(image(99))
    assert signatures(str(moved), "embedding", "fake", cache).digest != ref.digest
    assert len(list((cache / "evalsets").iterdir())) == 2


def test_kinds_and_embedders_do_not_share_signatures(evals: Path, tmp_path: Path) -> None:
    vectors = signatures(str(evals), "embedding", "fake", tmp_path)
    hashes = signatures(str(evals), "hash", "fake", tmp_path)
    assert vectors.folder != hashes.folder and vectors == hashes
    assert np.load(Path(vectors.folder) / "signatures.npy").shape == (5, 64)
    listed = np.load(Path(hashes.folder) / "signatures.npy")
    assert (listed.dtype, listed.shape) == (np.uint64, (5,))


def test_unreadable_images_are_named(evals: Path, tmp_path: Path) -> None:
    (evals / "broken.jpg").write_bytes(b"<html>")
    ref = signatures(str(evals), "hash", "", tmp_path / "cache")
    assert (ref.images, ref.unreadable) == (5, ("broken.jpg",))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of its 1 images decodes"):
        signatures(str(tmp_path / "bad"), "embedding", "fake", tmp_path / "cache")


def test_a_tar_is_a_set_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, data in (("b.png", image(1)), ("a/c.PNG", image(2)), ("b.txt", b"a caption")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert list(members(str(tmp_path / "set.tar"))) == [Member("a/c.PNG", image(2)), Member("b.png", image(1))]
    assert [found.name for found in members(str(tmp_path))] == ["set.tar/a/c.PNG", "set.tar/b.png"]
    assert signatures(str(tmp_path / "set.tar"), "embedding", "fake", tmp_path / "cache").images == 2


def test_what_is_no_set_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        signatures(str(tmp_path / "absent"), "hash", "", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in it"):
        signatures(str(tmp_path / "empty"), "hash", "", tmp_path)
    (tmp_path / "cut.tar").write_bytes(b"not a tar")
    with pytest.raises(InputError, match=r"cut\.tar"):
        signatures(str(tmp_path / "cut.tar"), "hash", "", tmp_path)


def test_thumbnails_keep_their_proportions(evals: Path, tmp_path: Path) -> None:
    ref = signatures(str(evals), "hash", "", tmp_path / "cache")
    thumb = thumbnail(ref, "deep/001.png")
    assert thumb is not None
    assert Image.open(io.BytesIO(thumb)).size == (160, 107)
    assert thumbnail(ref, "absent.png") is None


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("CURATE_CACHE")
    assert default_cache() == Path.home() / ".cache" / "curate"


# Stages


def test_similarity_names_the_nearest_image(evals: Path, tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other", range(10, 13))
    planned = EvalSimilarityStage("fake", unresolved((str(evals), str(other))))
    stage = planned.resolved(tmp_path / "cache")
    batch = EmbeddingStage("fake")(with_nulls(batch_of([3, 50, 11, 4]), "pixels", {3}))
    out = stage(batch)
    assert out.schema.names == [*batch.schema.names, *stage.provides.names]
    assert [out.schema.field(name) for name in stage.provides.names] == list(stage.provides)
    same, unrelated, second, missing = out["eval_similarity"].to_pylist()
    assert same == second == pytest.approx(1) and unrelated < 0.6 and missing is None
    names = out["eval_match"].to_pylist()
    assert (names[0], names[2], names[3]) == ("evals/deep/003.png", "other/deep/011.png", None)


def test_distance_names_the_nearest_image(evals: Path, tmp_path: Path) -> None:
    stage = EvalDistanceStage(unresolved((str(evals),))).resolved(tmp_path / "cache")
    out = stage(with_nulls(batch_of([2, 60, 3]), "phash", {2}))
    near, far, missing = out["eval_distance"].to_pylist()
    assert near <= 4 < far and missing is None
    assert out["eval_match"].to_pylist()[0] == "evals/002.png"
    assert out.schema.field("eval_distance").type == pa.int16()


@pytest.mark.parametrize(
    "stage", [EvalSimilarityStage("fake"), EvalDistanceStage(), NsfwStage("fake"), BlocklistStage()], ids=lambda s: s.name
)
def test_no_rows_and_no_sets_are_fine(stage: Stage) -> None:
    for batch in map(EmbeddingStage("fake"), (batch_of([1]).slice(0, 0), batch_of([1, 2]))):
        out = stage(batch)
        assert out.num_rows == batch.num_rows
        assert out.schema.names[-len(stage.provides) :] == stage.provides.names
        if stage.name != "nsfw":
            assert all(out[name].null_count == batch.num_rows for name in stage.provides.names)


def test_an_unread_set_cannot_be_searched(evals: Path) -> None:
    with pytest.raises(InputError, match="before its images were read"):
        EvalSimilarityStage("fake", unresolved((str(evals),)))(EmbeddingStage("fake")(batch_of([1])))


def test_where_a_set_lies_is_not_its_identity() -> None:
    assert EvalSetRef("a", "d", "/here", "/cache/1", 3) == EvalSetRef("a", "d", "/there", "/cache/2", 3)
    assert EvalSetRef("a", "d") != EvalSetRef("a", "e")


def test_nsfw_scores_what_has_pixels() -> None:
    batch = batch_of([1, 2, 3])
    scores = NsfwStage("fake")(with_nulls(batch, "pixels", {1}))["nsfw_score"].to_pylist()
    whole = NsfwStage("fake")(batch)["nsfw_score"].to_pylist()
    assert scores == [whole[0], None, whole[2]] and all(0 <= score <= 1 for score in whole)


def test_pixels_of_a_slice_are_its_own() -> None:
    batch = batch_of([1, 2, 3])
    whole, _ = pixels_of(batch)
    part, rows = pixels_of(batch.slice(1, 2))
    np.testing.assert_array_equal(part, whole[1:])
    assert rows.tolist() == [0, 1]
    part, rows = pixels_of(with_nulls(batch, "pixels", {0}).slice(0, 2))
    np.testing.assert_array_equal(part, whole[1:2])
    assert rows.tolist() == [1]


# Search


def saved(folder: Path, array: npt.NDArray[np.float32]) -> EvalSetRef:
    folder.mkdir()
    np.save(folder / "signatures.npy", array)
    return EvalSetRef(folder.name, folder.name, folder=str(folder), images=len(array))


def test_search_is_exact_and_the_same_for_any_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((9000, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[8500] = vectors[7]  # a tie across blocks and sets
    refs = saved(tmp_path / "a", vectors[:8400]), saved(tmp_path / "b", vectors[8400:])
    queries = np.concatenate([vectors[[7, 8500, 8399, 8400]], -vectors[:80], vectors[100:150] * 0.5])
    values, found = nearest_vectors(queries, refs)
    assert found[:4].tolist() == [7, 7, 8399, 8400]
    np.testing.assert_allclose(values, (queries @ vectors.T).max(axis=1), atol=2e-5)
    alone = [nearest_vectors(queries[row : row + 1], refs) for row in range(len(queries))]
    np.testing.assert_array_equal(np.concatenate([value for value, _ in alone]), values)
    np.testing.assert_array_equal(np.concatenate([index for _, index in alone]), found)


hash_lists = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


@given(hash_lists, hash_lists)
def test_nearest_hashes_are_those_of_a_plain_loop(queries: list[int], listed: list[int]) -> None:
    distances, found = nearest_hashes(np.array(queries, np.uint64), np.array(listed, np.uint64))
    for query, distance, index in zip(queries, distances.tolist(), found.tolist(), strict=True):
        expected = [(query ^ other).bit_count() for other in listed]
        assert distance == min(expected) and index == expected.index(distance)


def test_nearest_hashes_across_blocks() -> None:
    listed = np.full(20_000, 0xFF, np.uint64)
    listed[[9_000, 15_000]] = 0
    distances, found = nearest_hashes(np.array([0, 1, 0xFF], np.uint64), listed)
    assert (distances.tolist(), found.tolist()) == ([0, 1, 0], [9_000, 9_000, 0])


# Calibration


def test_calibration_counts_copies_and_false_alarms(evals: Path, tmp_path: Path) -> None:
    candidates = folder_of(tmp_path / "candidates", range(20, 40))
    result = calibrate([str(evals)], [str(candidates)], 0.1, "fake", tmp_path / "cache")
    assert (result.dropped, result.candidates, result.leave_one_out) == (2, 20, False)
    assert [recall.edit for recall in result.recalls] == list(EDITS)
    assert all(recall.copies == 5 for recall in result.recalls)
    low, high = result.interval
    assert low < result.rate == 0.1 < high
    rows = table(result)
    assert len(rows) == 2 + len(EDITS) and rows[0] == ("threshold", f"{result.threshold:.4f}", "")
    assert rows[-1][1] == "2/20"


def test_calibration_without_candidates_leaves_one_out(evals: Path, tmp_path: Path) -> None:
    (evals / "copy.png").write_bytes(image(0))
    result = calibrate([str(evals)], [], 0.4, "fake", tmp_path / "cache")
    assert (result.candidates, result.dropped, result.leave_one_out) == (6, 2, True)
    assert 0 < result.threshold < 0.9


def test_calibration_refuses_what_it_cannot_measure(evals: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one evaluation set"):
        calibrate([], [], 0.1, "fake", tmp_path)
    with pytest.raises(InputError, match="rate"):
        calibrate([str(evals)], [], 1.0, "fake", tmp_path)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=300), st.floats(0, 0.99))
def test_the_picked_threshold_is_the_smallest(cosines: list[float], rate: float) -> None:
    values = np.array(cosines, np.float32)
    threshold = pick(values, rate)
    assert (values >= np.float32(threshold)).sum() <= rate * len(values) + 1e-6
    assert (values >= np.float32(threshold - 2e-4)).sum() > int(rate * len(values) + 1e-9)


def test_wilson_covers_the_rate() -> None:
    low, high = wilson(5, 100)
    assert (round(low, 4), round(high, 4)) == (0.0215, 0.1118)


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_makes_another_image_that_opens(edit: str) -> None:
    copy = edited(Member("x", image(1, "JPEG")), edit)
    assert copy is not None and copy.data != image(1, "JPEG")
    assert Image.open(io.BytesIO(copy.data)).format == "JPEG"
    assert edited(Member("x", b"<html>"), edit) is None
