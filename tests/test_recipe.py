"""Recipes: every mistake is one line that says where and what was meant; what is equal has an equal digest."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import RecipeError
from curate.planning import loader as recipe
from curate.planning.plan import plan


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("filters:\n  min_sid: {larger_than: 3}", 2, "did you mean 'min_side'?"),
        ("filters:\n  min_side:\n    larger_thn: 3", 3, "did you mean 'larger_than'?"),
        ("filters:\n  min_side: {larger_than: '3'}", 2, "must be int, not '3'"),
        ("filters:\n  min_side: {larger_than: 3.5}", 2, "must be int, not 3.5"),
        ("filters:\n  min_side: {larger_than: true}", 2, "must be int, not True"),
        ("filters:\n  caption_words: {min_words: 30}", 2, "above max_words"),
        ("filters:\n  image_reuse: {max_texts: 5, record_from: 9}", 2, "counts between are unknown"),
        ("filters:\n  sql: {where: widht > 3}", 2, "did you mean 'width'?"),
        ("filters:\n  sql: {where: nsfw < 0.5}", 2, "did you mean 'nsfw_score'?"),
        ("filters:\n  sql: {where: caption_words > 2}", 2, "did you mean 'words'?"),
        ("filters:\n  sql: {where: min_side > 2}", 2, "did you mean 'width' or 'height'?"),
        ("filters:\n  nsfw_score: {below: 0.5}", 2, "'nsfw_score': it is a fact, which nsfw and the expressions of sql read"),
        ("filters:\n  duplicate_pair: {same: text}", 2, "'pair' or 'image'"),
        ("filters:\n  min_side:\n  min_side:", 3, "is there twice"),
        ("filters: [min_side]", 1, "must be a mapping"),
        ("flters:\n  min_side:", 1, "did you mean 'filters'?"),
        ("filters: &a\n  min_side:\nabout: *a", 3, "aliases are not allowed"),
        ("filters:\n  min_side: {larger_than: 3}\n bad", 3, "not YAML"),
        ("about: nothing", 1, "needs filters"),
        ("", 1, "empty"),
    ],
)
def test_a_mistake_is_one_line_with_its_place_and_the_nearest_name(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("min_side.larger_tha=3", "did you mean 'larger_than'?"),
        ("min_sid.larger_than=3", "is not a filter; did you mean 'min_side'?"),
        ("words.min_words=3", "is not a filter: it is a fact, which caption_words and the expressions of sql read"),
        ("language_score.above=3", "is not a filter: it is a fact, which the expressions of sql read"),
        ("nsfw.below=0.3", "is not in this recipe"),
        ("min_side.larger_than=wide", "must be int"),
        ("min_side", "must be FILTER.PARAM=VALUE"),
        ("output.quality=0", "between 1 and 100"),
        ("output.format=jpeg", "output.format must be"),
        ("output.crop=0", "crop must be at least 1"),
        ("output.only_if_bigger=true", "needs longest_side, shortest_side, crop or pad"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load(written(tmp_path, "filters:\n  min_side:"), [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{longest_side: 300, crop: 200}", "longest_side and crop contradict; choose one of them"),
        ("{format: webp, extension: jpg}", "format=webp and extension=jpg contradict"),
    ],
)
def test_output_settings_that_contradict_are_an_error(tmp_path: Path, settings: str, says: str) -> None:
    path = written(tmp_path, f"filters:\n  min_side:\noutput: {settings}")
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert str(caught.value).startswith(f"{path}:3: output: ") and says in str(caught.value)


def test_output_settings_of_later_versions_are_described_where_they_are_set(tmp_path: Path) -> None:
    path = written(tmp_path, "filters:\n  min_side:")
    plain = recipe.load(path).resolved()["output"]
    assert recipe.load(path, ["output.pad=64", "output.format=original"]).resolved()["output"] == {**plain, "pad": 64}


def test_overrides_read_numbers_lists_and_nothing(tmp_path: Path) -> None:
    text = "filters:\n  min_side:\n  eval_overlap:\n  common_ngrams: {min_count: 4}"
    given = ["min_side.larger_than=5", "eval_overlap.sets=a,b", "common_ngrams.min_count=null", "unreadable.tolerate=missing_eoi"]
    rules = recipe.load(written(tmp_path, text), given).resolved()["filters"]
    assert rules["min_side"]["larger_than"] == 5
    assert rules["eval_overlap"]["sets"] == ("a", "b")
    assert rules["common_ngrams"]["min_count"] is None
    assert rules["unreadable"]["tolerate"] == ("missing_eoi",)


def test_the_digest_knows_order_and_values_and_not_the_writing(tmp_path: Path) -> None:
    one = recipe.load(written(tmp_path, "filters:\n  min_side: {larger_than: 200}\n  aspect_ratio:")).digest()
    same = recipe.load(written(tmp_path, "# a comment\nfilters: {min_side: , aspect_ratio: {below: 3}}")).digest()
    turned = recipe.load(written(tmp_path, "filters:\n  aspect_ratio:\n  min_side:")).digest()
    other = recipe.load(written(tmp_path, "filters:\n  min_side: {larger_than: 201}\n  aspect_ratio:")).digest()
    assert one == same
    assert len({one, turned, other}) == 3


def test_unreadable_is_always_on_and_stands_before_what_needs_a_picture(tmp_path: Path) -> None:
    assert list(recipe.load(written(tmp_path, "filters:\n  nsfw:\n  min_side:")).filters) == ["unreadable", "nsfw", "min_side"]
    assert list(recipe.load(written(tmp_path, "filters:\n  min_side:")).filters) == ["min_side", "unreadable"]


def test_align_is_the_paper() -> None:
    rules = recipe.load("align").resolved()
    assert rules["order"][:3] == ["image_reuse", "caption_frequency", "common_ngrams"]
    assert rules["order"][3:] == ["caption_words", "min_side", "aspect_ratio", "unreadable", "eval_overlap", "nsfw"]
    published = {name: rules["filters"][name] for name in rules["order"]}
    assert published["image_reuse"]["max_texts"] == 1000
    assert published["caption_frequency"]["max_images"] == 10
    assert published["common_ngrams"]["vocabulary"] == 100_000_000
    assert (published["caption_words"]["min_words"], published["caption_words"]["max_words"]) == (3, 20)
    assert (published["min_side"]["larger_than"], published["aspect_ratio"]["below"]) == (200, 3.0)


def test_every_recipe_that_ships_can_be_planned() -> None:
    assert {"align", "align_capfilt"} <= set(recipe.names())
    for name in recipe.names():
        assert plan(recipe.load(name)).steps


def test_what_was_recorded_is_built_again() -> None:
    one = recipe.load("align", ["eval_overlap.sets=a,b"])
    assert recipe.recorded(one.resolved()) == one.filters
    changed = recipe.recorded(one.resolved(), ["min_side.larger_than=9"])
    assert changed["min_side"] != one.filters["min_side"]


def test_a_dear_filter_before_a_free_one_and_missing_sets_are_warned_of(tmp_path: Path) -> None:
    warnings = plan(recipe.load(written(tmp_path, "filters:\n  nsfw:\n  min_side:\n  eval_overlap:"))).warnings()
    assert any("nsfw costs about" in warning and "min_side" in warning for warning in warnings)
    assert any("NO EVALUATION SETS" in warning for warning in warnings)
    assert not plan(recipe.load(written(tmp_path, "filters:\n  min_side:\n  nsfw:"))).warnings()


def test_a_fact_that_nothing_provides_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="sql reads images_per_text, which no filter of this recipe provides"):
        plan(recipe.load(written(tmp_path, "filters:\n  sql: {where: images_per_text > 3}")))


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("filters:mn_sde{}[]&*!%@ \n\t-#'\"0123456789.", max_size=80)))
def test_any_text_is_a_recipe_or_a_recipe_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        recipe.load(str(path))
    except RecipeError as error:
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text(max_size=15).map(lambda text: f"min_side.larger_than={text}")))
def test_any_override_is_applied_or_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        recipe.load("align", [text])
