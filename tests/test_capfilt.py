"""CapFilt in whole runs, with models that answer from hashes: who is captioned, what is judged, what is kept and packed."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate.core.contracts import Batch, Stage
from curate.core.errors import RecipeError
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.planning.plan import Plan
from curate.report.what_if import what_if
from curate.runners.local.runner import LocalRunner
from curate.stages.caption import CaptionStage
from curate.stages.caption_faults import fault
from curate.stages.match import MatchStage
from curate.stages.text_scores import texts_of
from curate.storage.backend import storage
from tests import running
from tests.running import Setup, manifest, run_job, written

CAPTIONS = "captions: {model: fake, min_tokens: 3, per_image: 2}\n"
MATCH = "  caption_match: {matcher: fake}\noutput"
RECIPE = CAPTIONS + running.RECIPE.lstrip().replace("output", MATCH)
WEB_ONLY = {"caption_frequency", "common_ngrams", "caption_words"}

Texts = dict[tuple[int, int], list[dict[str, Any]]]
"""Decisions by record, in the order of its texts."""


@pytest.fixture(scope="module")
def setup(demo: Path) -> Setup:
    return Setup(RECIPE, sorted((demo / "pairs").glob("*.tar")), (f"eval_overlap.sets={demo / 'eval'}",))


@pytest.fixture(scope="module")
def undisturbed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run in one process that nothing disturbed."""
    out = tmp_path_factory.mktemp("capfilt") / "out"
    run_job(setup, out)
    return out


@pytest.fixture(scope="module")
def texts(undisturbed: Path) -> Texts:
    """Return the decisions by record, in the order of its texts."""
    found: Texts = {}
    for row in running.decisions(undisturbed):
        found.setdefault((row["shard_index"], row["row"]), []).append(row)
    return found


def samples(out: Path) -> dict[str, dict[str, Any]]:
    """Return key.json of every sample, with key.txt as `txt`."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                if extension == "json":
                    found.setdefault(key, {}).update(json.loads(file.read()))
                elif extension == "txt":
                    found.setdefault(key, {})["txt"] = file.read().decode()
    return found


# Who is captioned ----------------------------------------------------------------------------------------------------


def test_every_image_that_is_alive_gets_its_captions_also_when_its_web_text_was_dropped(
    texts: Texts,
) -> None:
    images = {"image_reuse", "min_side", "aspect_ratio", "duplicate_pair", "unreadable", "eval_overlap"}
    for web, *captions in texts.values():
        assert (web["text_no"], web["source"]) == (0, "web")
        assert [one["text_no"] for one in captions] == ([] if images & set(web["failed"]) else [1, 2])
        assert all(one["source"] == "synthetic" and len(one["text"].split()) == 3 for one in captions)
    dead = [several for several in texts.values() if len(several) > 1 and several[0]["dropped_by"] in WEB_ONLY]
    assert len(dead) > 20
    assert any(one["dropped_by"] is None for several in dead for one in several[1:])


def test_captions_are_judged_by_matching_and_their_words_and_not_by_counts_of_web_texts(texts: Texts) -> None:
    captions = [one for several in texts.values() for one in several[1:]]
    assert {one["dropped_by"] for one in captions} == {None, "caption_match"}
    assert all((one["caption_match"] >= 0.5) == (one["dropped_by"] is None) for one in captions)
    counts = WEB_ONLY - {"caption_words"}
    assert all(one[name] is None and name not in one["not_evaluated"] for one in captions for name in counts)
    assert all(one["words"] == one["caption_words"] == len(one["text"].split()) for one in captions)
    assert all(one["characters"] == len(one["text"]) and one["language"] is not None for one in captions)


def test_the_first_filter_that_fails_drops_a_web_text(texts: Texts) -> None:
    order = list(recipes.load("align_capfilt").filters)
    for web, *_ in texts.values():
        failed = sorted(web["failed"], key=[*order, "duplicate_pair"].index)
        if "duplicate_pair" not in failed:
            assert web["dropped_by"] == (failed[0] if failed else None)


class Mixed(CaptionStage):
    """A captioner that writes two captions, of which one is short."""

    def __call__(self, batch: Batch) -> Batch:
        captions = [["a dog", "der hund läuft über das gras"]] * batch.num_rows
        return self.answer(batch, list(range(batch.num_rows)), captions, [[False, False]] * batch.num_rows)


def test_rules_of_texts_judge_captions(tmp_path: Path) -> None:
    def mixed(plan: Plan) -> dict[str, Stage]:
        assert plan.captions is not None
        return {"caption": Mixed(**vars(plan.captions))}

    tar = running.make_tar(tmp_path / "a.tar", running.pairs(range(3)))
    where = "language = 'en' and width > 1 and text <> ''"
    recipe = f'{CAPTIONS}filters:\n  caption_words: {{min_words: 3}}\n  sql: {{where: "{where}"}}\n'
    recipe += "  unreadable:\n  caption_match: {matcher: fake, at_least: 1.0e-9}\n"
    run_job(Setup(recipe, [tar], stages=mixed), tmp_path / "out")
    found = [(row["text_no"], row["dropped_by"], row["failed"]) for row in running.decisions(tmp_path / "out")]
    assert [one for one in found if one[0]] == [(1, "caption_words", ["caption_words"]), (2, "sql", ["sql"])] * 3
    rules = manifest(tmp_path / "out")["rules"]
    assert [name for name, rule in rules.items() if rule["captions"]] == ["caption_words", "sql"]
    for threshold in (1, 2, 6, 7):
        asked = what_if(storage(tmp_path / "out"), manifest(tmp_path / "out"), (f"caption_words.min_words={threshold}",))
        again = tmp_path / str(threshold)
        run_job(Setup(recipe, [tar], (f"caption_words.min_words={threshold}",), stages=mixed), again)
        assert [line.dropped for line in asked.filters] == [line["dropped"] for line in manifest(again)["attrition"]]
        assert asked.kept == manifest(again)["kept"]


# What is written -----------------------------------------------------------------------------------------------------


def test_a_sample_is_a_record_with_all_of_its_kept_texts(undisturbed: Path, texts: Texts) -> None:
    kept = {key: [one for one in several if one["dropped_by"] is None] for key, several in texts.items()}
    wanted = {several[0]["sample_key"]: several for several in kept.values() if several}
    found = samples(undisturbed)
    assert found.keys() == wanted.keys()
    assert {1, 2, 3} == {len(several) for several in wanted.values()}
    for key, sample in found.items():
        told = [(one["text_no"], one["source"], one["text"]) for one in wanted[key]]
        assert [(one["text_no"], one["source"], one["text"]) for one in sample["texts"]] == told
        assert all(one["caption_match"] >= 0.5 for one in sample["texts"])
        assert sample["txt"] == wanted[key][0]["text"]
        assert "caption_match" not in sample["evidence"]
    done = manifest(undisturbed)
    assert done["kept"] == len(wanted)
    assert done["records"] == len(texts)
    assert done["texts"] == sum(map(len, texts.values()))
    assert done["attrition"][-1]["left"] == done["kept_texts"] == sum(map(len, wanted.values()))


def test_a_record_names_its_sample_in_every_text_if_any_is_kept(texts: Texts) -> None:
    for several in texts.values():
        keys = {one["sample_key"] for one in several}
        assert len(keys) == 1
        assert (keys == {None}) == all(one["dropped_by"] for one in several)


def test_the_best_score_may_choose_the_text(setup: Setup, tmp_path: Path) -> None:
    best = replace(setup, overrides=(*setup.overrides, "output.text=best_score"))
    run_job(best, tmp_path / "out")
    found = samples(tmp_path / "out").values()
    assert all(one["txt"] == max(one["texts"], key=lambda text: text["caption_match"])["text"] for one in found)
    assert any(one["txt"] != one["texts"][0]["text"] for one in found)


# The same bytes ------------------------------------------------------------------------------------------------------


def test_two_workers_write_the_same_bytes(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    with LocalRunner(2) as runner:
        run_job(setup, tmp_path / "out", runner)
    assert written(tmp_path / "out") == written(undisturbed)


def test_a_run_that_stopped_in_the_middle_of_captioning_goes_on_to_the_same_bytes(
    setup: Setup, undisturbed: Path, tmp_path: Path
) -> None:
    arguments: list[object] = ["run", undisturbed.parent / "recipe.yaml", *setup.inputs, "--out", tmp_path / "out"]
    arguments += ["--workers", 1, "--set", setup.overrides[0]]
    process = running.start(*arguments)
    if running.wait_for(process, tmp_path / "out", "facts/caption-*/*.json"):
        running.kill(process)
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = running.curate(*arguments)
    assert again.returncode == 0, again.stderr
    assert written(tmp_path / "out") == written(undisturbed)


class NoCaptions(CaptionStage):
    """A captioner that must not be asked."""

    def __call__(self, batch: Batch) -> Batch:
        raise AssertionError("asked for captions that are in the store")


class NoMatching(MatchStage):
    """A matcher that must not be asked."""

    def __call__(self, batch: Batch) -> Batch:
        raise AssertionError("asked for scores that are in the store")


def refusing(plan: Plan) -> dict[str, Stage]:
    found = {stage.name: stage for stage in plan.stages()}
    caption, match = found["caption"], found["match"]
    assert isinstance(caption, CaptionStage)
    assert isinstance(match, MatchStage)
    return {"caption": NoCaptions(**vars(caption)), "match": NoMatching(**vars(match))}


@pytest.mark.parametrize("change", ["caption_match.at_least=0.8", "caption_words.max_words=5", "caption_words.min_words=1"])
def test_a_changed_threshold_runs_no_model_and_equals_a_fresh_run(
    change: str, setup: Setup, undisturbed: Path, tmp_path: Path
) -> None:
    changed = replace(setup, overrides=(*setup.overrides, change))
    shutil.copytree(undisturbed, tmp_path / "again" / "out")
    run_job(replace(changed, stages=refusing), tmp_path / "again" / "out")
    run_job(changed, tmp_path / "fresh" / "out")
    assert written(tmp_path / "again" / "out") == written(tmp_path / "fresh" / "out") != written(undisturbed)


# what-if -------------------------------------------------------------------------------------------------------------

RANGES = {
    "caption_match.at_least": (0.1, 0.9),
    "caption_words.max_words": (4, 30),
    "caption_frequency.max_images": (2, 16),
    "aspect_ratio.below": (1.2, 4.0),
    "min_side.larger_than": (100, 400),
}


@pytest.mark.parametrize("seed", range(6))
def test_what_if_says_what_a_real_run_gives(setup: Setup, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = draw.sample(sorted(RANGES), 2)
    digits = {name: 2 if name in ("caption_match.at_least", "aspect_ratio.below") else 0 for name in names}
    overrides = tuple(f"{name}={draw.uniform(*RANGES[name]):.{digits[name]}f}" for name in names)
    asked = what_if(storage(undisturbed), manifest(undisturbed), overrides)
    run_job(replace(setup, overrides=(*setup.overrides, *overrides)), tmp_path / "out")
    real = manifest(tmp_path / "out")
    assert asked.at_least <= real["kept"] <= asked.kept
    if asked.at_least == asked.kept:
        assert [line.dropped for line in asked.filters] == [line["dropped"] for line in real["attrition"]]


def test_what_if_counts_captions_that_nobody_has_written_as_possible(setup: Setup, undisturbed: Path, tmp_path: Path) -> None:
    loosened = ("min_side.larger_than=10", "caption_words.max_words=3")  # hardly any web text is left to revive an image
    asked = what_if(storage(undisturbed), manifest(undisturbed), loosened)
    run_job(replace(setup, overrides=(*setup.overrides, *loosened)), tmp_path / "out")
    real = manifest(tmp_path / "out")["kept"]
    assert asked.at_least < real <= asked.kept


def test_what_if_of_the_captioner_is_refused(undisturbed: Path) -> None:
    with pytest.raises(RecipeError, match="changes facts"):
        what_if(storage(undisturbed), manifest(undisturbed), ("captions.top_p=0.5",))


# Captions ------------------------------------------------------------------------------------------------------------


class Stuck(CaptionStage):
    """A captioner that writes nothing, or one word over and over."""

    def __call__(self, batch: Batch) -> Batch:
        told = [["", "dog dog dog"]] * batch.num_rows
        return self.answer(batch, range(batch.num_rows), told, [[None, None]] * batch.num_rows)


def test_captions_that_are_none_are_dropped_with_their_reason(tmp_path: Path) -> None:
    def stuck(plan: Plan) -> dict[str, Stage]:
        assert plan.captions is not None
        return {"caption": Stuck(**vars(plan.captions))}

    tar = running.make_tar(tmp_path / "a.tar", running.pairs(range(3)))
    recipe = CAPTIONS + "filters:\n  caption_match: {matcher: fake}\n"
    run_job(Setup(recipe, [tar], stages=stuck), tmp_path / "out")
    found = running.decisions(tmp_path / "out")
    told = [(row["text_no"], row["error"], row["dropped_by"]) for row in found if row["text_no"]]
    assert told == [(1, "empty_caption", "caption_match"), (2, "repeated_word", "caption_match")] * 3


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [("", "empty_caption"), ("  ", "empty_caption"), (None, "empty_caption"), ("a a", "repeated_word"),
     ("a dog dog dog runs", "repeated_word"), ("very very good", None), ("dog", None)],
)  # fmt: skip
def test_what_is_wrong_with_a_caption(caption: str | None, wrong: str | None) -> None:
    assert fault(caption) == wrong


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("ray ban ray ban ray ban ray ban ray ban", "repeated_phrase"),
        ("on top of a hat on top of a hat", "repeated_phrase"),
        ("there is a man with a hat on top of a hat on top of a hat", "repeated_phrase"),
        ("a man is riding a horse down the street, Ray Ban, ray ban, ray ban", "repeated_phrase"),
        ("red dog blue dog red blue dog red dog blue red dog", "repeated_phrase"),
        ("a" * 60, "repeated_phrase"),
        ("狗在车上狗在车上狗在车上", "repeated_phrase"),
        ("ray, ray, ray", "repeated_word"),
        ("A picture of a red car", "repeated_prompt"),
        ("a red car at http://cars.example/a", "web_address"),
        ("a red car www. cars. example", "web_address"),
        ("a red car from cars.com", "web_address"),
        ("write to someone @ cars. org", "web_address"),
        ("a boy in a red shirt and a boy in a blue shirt", None),
        ("a white dog and a black dog and a brown dog", None),
        ("a woman holds a picture of a dog", None),
        ("一个穿红衣服的男孩和一个穿蓝衣服的男孩", None),
        ("蜜蜂嗡嗡嗡", None),
        ("a dog. come here, 3.5 km/h at 9 a.m.", None),
        ("\ud800 a dog", None),
    ],
)
def test_loops_prompts_and_addresses_are_faults_and_ordinary_captions_are_not(caption: str, wrong: str | None) -> None:
    assert CaptionStage().faults([caption], [False]) == [wrong]


def test_a_caption_that_was_cut_off_is_one_unless_a_sentence_ends_there() -> None:
    captions = ["a dog in front of the", "a dog in front of the car.", "a dog", "a dog"]
    assert CaptionStage().faults(captions, [True, True, False, None]) == ["cut_caption", None, None, None]


@pytest.mark.parametrize(
    ("caption", "setting"),
    [
        ("a red dog a red dog", {"repeated_share": 0.5, "phrase_run": 0}),
        ("a dog and a cat and a horse and a cow and a hen", {"repeated_share": None}),
        ("ray ban ray ban ray ban in front of a house and a garden with a car", {"phrase_run": 4}),
        ("abcdefgh" * 20, {"compression": None}),
        ("a picture of a dog", {"prompt": ""}),
        ("a dog of cars.com", {"addresses": "keep"}),
        ("a dog in the", {"cut": "keep"}),
    ],
)
def test_each_fault_has_its_setting(caption: str, setting: dict[str, Any]) -> None:
    assert CaptionStage().faults([caption], [True]) != [None]
    assert CaptionStage(**{"cut": "keep", **setting}).faults([caption], [True]) == [None]


class Looping(CaptionStage):
    """A captioner that loops."""

    def __call__(self, batch: Batch) -> Batch:
        told = [["a dog in a park", "ray ban ray ban"]] * batch.num_rows
        return self.answer(batch, range(batch.num_rows), told, [[False, False]] * batch.num_rows)


def test_a_changed_bound_of_faults_writes_no_captions_anew_and_older_recipes_stay_what_they_are(tmp_path: Path) -> None:
    def looping(plan: Plan) -> dict[str, Stage]:
        assert plan.captions is not None
        return {"caption": Looping(**vars(plan.captions))}

    tar = running.make_tar(tmp_path / "a.tar", running.pairs(range(3)))
    setup = Setup(CAPTIONS + "filters:\n  caption_match: {matcher: fake, at_least: 0.000001}\n", [tar], stages=looping)
    run_job(setup, tmp_path / "out")
    assert "phrase_run" not in manifest(tmp_path / "out")["recipe"]["captions"]
    changed = replace(setup, overrides=("captions.repeated_share=0.5", "captions.phrase_run=0"), stages=refusing)
    for job, wrong in ((setup, "repeated_phrase"), (changed, None)):
        run_job(job, tmp_path / "out")
        written = [row for row in running.decisions(tmp_path / "out") if row["text_no"]]
        assert [row["error"] for row in written] == [None, wrong] * 3
        assert [row["dropped_by"] for row in written] == [None, wrong and "caption_match"] * 3


@pytest.mark.parametrize(
    ("setting", "told"),
    [("repeated_share: 0", "not above 0"), ("phrase_run: 1", "not 2 or more"), ("compression: 1.0", "not above 1"),
     ("cut: maybe", "cut")],
)  # fmt: skip
def test_bounds_that_make_no_sense_are_refused(setting: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"captions: {{{setting}}}\nfilters:\n  caption_match:\n")
    with pytest.raises(RecipeError, match=told):
        recipes.load(str(tmp_path / "r.yaml"))


def test_a_caption_depends_on_the_image_alone() -> None:
    stage = CaptionStage("fake", per_image=2, max_tokens=4)
    one, two = "ab" * 32, "cd" * 32
    draws = stage._draws([one, two, one])
    assert draws.shape == (3, 2, 4)
    assert draws.dtype == np.float32
    assert np.array_equal(draws[0], draws[2])
    assert len(np.unique(draws[:2])) == 16
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.array_equal(CaptionStage("fake", per_image=1, max_tokens=4)._draws([two])[0, 0], draws[1, 0])


def test_draws_are_uniform() -> None:
    rng = random.Random(5)
    draws = CaptionStage("fake")._draws([rng.randbytes(32).hex() for _ in range(2000)]).ravel()
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert counts.min() > 0.95 * len(draws) / 10
    assert counts.max() < 1.05 * len(draws) / 10


def test_texts_with_nothing_in_them_are_not_matched() -> None:
    columns = {"text": ["a dog", " ", None, "b"], "captions": [["x y", ""], None, ["no no no", "z"], ["c", "d"]]}
    batch = pa.record_batch({"text": columns["text"], "captions": pa.array(columns["captions"], pa.list_(pa.string()))})
    assert texts_of(batch) == [["a dog", "x y", None], [None, None, None], [None, None, "z"], ["b", "c", "d"]]
    assert texts_of(batch.select(["text"])) == [["a dog"], [None], [None], ["b"]]


def test_a_text_of_which_nothing_is_left_has_no_score_and_is_dropped(tmp_path: Path) -> None:
    members = [(f"{n}.{kind}", body) for n in range(3) for kind, body in (("jpg", running.jpeg(n)), ("txt", b"..."))]
    recipe = CAPTIONS + "filters:\n  caption_match: {matcher: fake}\n"
    run_job(Setup(recipe, [running.make_tar(tmp_path / "a.tar", members)]), tmp_path / "out")
    web = [row for row in running.decisions(tmp_path / "out") if not row["text_no"]]
    assert [(row["caption_match"], row["dropped_by"]) for row in web] == [(None, "caption_match")] * 3


def test_an_expression_over_the_image_ends_its_captions_too(tmp_path: Path) -> None:
    tar = running.make_tar(tmp_path / "a.tar", running.pairs(range(6)))
    for where, captions in (("width > 256", 0), ("width > 256 or words > 99", 12)):
        recipe = CAPTIONS + f"filters:\n  sql: {{where: '{where}'}}\n  caption_match: {{matcher: fake}}\n"
        run_job(Setup(recipe, [tar]), tmp_path / where / "out")
        assert sum(row["text_no"] > 0 for row in running.decisions(tmp_path / where / "out")) == captions


# Recipes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["capfilt", "align_capfilt"])
def test_sets_of_models_are_put_into_a_recipe_and_overridden(name: str) -> None:
    assert "large" in recipes.load(name).resolved()["captions"]["model"]
    mini = recipes.load(name, ("caption_match.matcher=fake",), "mini").resolved()
    assert mini["captions"]["model"] == "mini"
    assert mini["filters"]["caption_match"]["matcher"] == "fake"
    base = recipes.load(name, (), "blip-base").resolved()
    assert base["captions"]["model"] == "hf:Salesforce/blip-image-captioning-base"
    assert base["filters"]["caption_match"]["matcher"] == "hf:Salesforce/blip-itm-base-coco"


@pytest.mark.parametrize(
    ("source", "overrides", "models", "told"),
    [
        ("captions: {model: fake}\nfilters:\n  min_side:\n", (), None, ":1: captions are written but no filter judges them"),
        ("filters:\n  min_side:\n", ("captions.model=mini",), None, "this recipe writes no captions"),
        ("filters:\n  min_side:\n", (), "mini", "--models mini: this recipe has no captions"),
        ("filters:\n  caption_match:\n", (), "blip-larg", "did you mean 'blip-large'"),
        ("captions: {modle: fake}\nfilters:\n  caption_match:\n", (), None, "did you mean 'model'"),
        ("captions: {min_tokens: 30}\nfilters:\n  caption_match:\n", (), None, "min_tokens 30 and max_tokens 20 must be ordered"),
        ("captions: {top_p: 0.0}\nfilters:\n  caption_match:\n", (), None, "top_p 0.0 is not above 0"),
        ("captions: {per_image: 0}\nfilters:\n  caption_match:\n", (), None, "per_image 0 is less than 1"),
        ("filters:\n  caption_match: {at_least: 0.0}\n", (), None, "at_least 0.0 is not above 0"),
    ],
)
def test_recipe_errors_are_one_line(
    source: str, overrides: tuple[str, ...], models: str | None, told: str, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(source)
    with pytest.raises(RecipeError) as error:
        recipes.load(str(tmp_path / "r.yaml"), overrides, models)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_models_stand_after_the_decoder_and_the_filters_of_images(demo: Path) -> None:
    plan = planning.plan(recipes.load("align_capfilt", (f"eval_overlap.sets={demo / 'eval'}",), "mini"))
    last = plan.steps[-1]
    assert last.name == "caption_match"
    assert [stage.name for stage in last.stages] == ["caption", "match"]
    assert list(recipes.load("capfilt").filters) == ["unreadable", "caption_match"]


def test_matching_without_captions_judges_web_texts_as_any_filter_does(tmp_path: Path) -> None:
    tar = running.make_tar(tmp_path / "a.tar", running.pairs(range(12)))
    run_job(Setup("filters:\n  caption_words: {min_words: 1}\n  caption_match: {matcher: fake}\n", [tar]), tmp_path / "out")
    found = running.decisions(tmp_path / "out")
    assert {row["source"] for row in found} == {"web"}
    assert {row["dropped_by"] for row in found} == {None, "caption_match"}
    assert manifest(tmp_path / "out")["kept"] == sum(row["dropped_by"] is None for row in found)
