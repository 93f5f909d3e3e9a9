"""The public API: its names, and that a program curates and reads with nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

import curate
from tests.running import InProcess, make_tar, pairs

NAMES = {
    "CorpusCount", "CurateError", "Fact", "Filter", "ModelEntry", "Needs", "RunOptions", "Sample", "Settings", "Source", "Stage",
    "__version__", "decisions", "pixels_of", "plan", "run", "samples", "setting", "threshold", "what_if",
}  # fmt: skip


def test_the_exported_names_are_these() -> None:
    assert set(curate.__all__) == set(dir(curate)) == NAMES
    assert all(getattr(curate, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        curate.nothing  # noqa: B018


def test_the_stub_has_the_same_names() -> None:
    stub = (Path(curate.__file__).parent / "__init__.pyi").read_text()
    assert {line.rpartition(" as ")[2] for line in stub.splitlines()} == NAMES


def test_importing_costs_nothing() -> None:
    code = "import sys, curate; assert not {'pyarrow', 'numpy', 'click'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_program_runs_plans_and_reads(tmp_path: Path) -> None:
    tar, out = make_tar(tmp_path / "0.tar", pairs(range(4))), tmp_path / "out"
    (tmp_path / "r.yaml").write_text("filters:\n  min_side: {larger_than: 200}\n  caption_words: {max_words: 6}\n")
    settings = curate.Settings(runner=InProcess(), overrides=["min_side.larger_than=100"])
    planned = curate.plan(str(tmp_path / "r.yaml"), settings=settings)
    assert [one.name for one in planned.passes()] == ["scan", "judge", "pack"]
    outcome = curate.run(str(tmp_path / "r.yaml"), [str(tar)], out, settings)
    assert (outcome.records, outcome.kept) == (4, 4)
    kept = curate.decisions(out).to_table(filter=pc.field("dropped_by").is_null())
    samples = list(curate.samples(out))
    assert kept["sample_key"].to_pylist() == [sample.key for sample in samples]
    assert [sample.text for sample in samples] == [f"a picture of thing number {n}" for n in range(4)]
    assert all(sample.image.startswith(b"\xff\xd8") and sample.extension == "jpg" for sample in samples)
    assert [sample.about["key"] for sample in samples] == kept["key"].to_pylist()
    assert curate.what_if(out, ["caption_words.max_words=5"]).kept == 0


def test_an_output_that_is_none_or_overlaps_the_input_is_refused(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "in" / "0.tar", pairs(range(1)))
    with pytest.raises(curate.CurateError, match="overlap"):
        curate.run("align", [str(tar.parent)], tmp_path / "in" / "out")
    with pytest.raises(curate.CurateError, match="holds no finished run"):
        curate.decisions(tmp_path)
    with pytest.raises(curate.CurateError, match="holds no finished run"):
        next(curate.samples(tmp_path))
