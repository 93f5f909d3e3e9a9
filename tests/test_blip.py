"""BLIP: equal to transformers' model of the same checkpoint; captions and scores that depend on nothing but their own input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.core.errors import ModelError, OutOfDeviceMemory
from curate.core.hashing import file_sha256
from curate.models import load_captioner, load_embedder, load_matcher
from curate.models.blip.checkpoint import CONFIG, WEIGHTS, Kind, inspect, open_checkpoint
from curate.models.blip.model import TEXT_TOKENS, BlipCaptioner, BlipEmbedder, BlipMatcher, cleaned
from curate.models.blip.network import MEAN, STD
from curate.models.blip.weights import INDEX
from curate.models.device import Graphed, GraphMemory, out_of_memory_told
from curate.models.protocols import Compute, Sampling
from curate.models.sampling import next_tokens
from tests import blips, running

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # as in a worker; threads of tests that run beside each other wait for each other

EXACT = Compute(precision="float32")
GREEDY = Sampling(top_k=1, min_tokens=5, max_tokens=20)
TEXTS = ["a dog runs in the park", "Two men.", "Людина з собакою", "犬が走る", "x", "🐕 " * 9, "word " * 10_000, "(((;"]
SHAPES = {"small": blips.SMALL, "equal": blips.EQUAL, "coarse": blips.COARSE}


@dataclass(frozen=True)
class Made:
    """A random checkpoint and transformers' model of it."""

    folder: Path
    model: Any
    side: int

    def pictures(self, count: int) -> npt.NDArray[np.uint8]:
        shape = (count, self.side, self.side, 3)
        return np.random.default_rng(count).integers(0, 256, shape, np.uint8)

    def inputs(self, pictures: npt.NDArray[np.uint8]) -> Any:
        scaled = (pictures / 255 - np.array(MEAN)) / np.array(STD)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))


def make(folder: Path, shape: str, kind: str) -> Made:
    return Made(folder, blips.save(folder, SHAPES[shape], kind), SHAPES[shape]["vision"]["image_size"])


@pytest.fixture(scope="module", params=sorted(SHAPES))
def captioning(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("captioner"), request.param, "captioner")


@pytest.fixture(scope="module", params=sorted(SHAPES))
def matching(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("matcher"), request.param, "matcher")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("small"), "small", "captioner")


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("small"), "small", "matcher")


def draws(count: int, captions: int = 1, steps: int = 20) -> npt.NDArray[np.float32]:
    return np.random.default_rng(7).random((count, captions, steps), np.float32)


def ids_of(text: str, first: int) -> list[int]:
    """Return the ids of a text as transformers' tokeniser cuts it, with another first token."""
    from tokenizers import Tokenizer

    found: list[int] = Tokenizer.from_file(str(blips.TOKENIZER)).encode(cleaned(text)).ids
    found = [one for one in found if one] or found
    return [first, *found[1 : TEXT_TOKENS - 1], 102][:TEXT_TOKENS] if len(found) > TEXT_TOKENS else [first, *found[1:]]


# Parity --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_captions_equal_transformers_token_for_token(captioning: Made, penalty: float) -> None:
    pictures = captioning.pictures(19)
    ours = BlipCaptioner.load(str(captioning.folder), replace(GREEDY, repetition_penalty=penalty), EXACT)
    prompt = torch.tensor([[30522, 1037, 3861, 1997, 102]]).repeat(len(pictures), 1)  # [DEC] a picture of [SEP]
    wanted = captioning.model.generate(
        captioning.inputs(pictures), input_ids=prompt, do_sample=False, num_beams=1, min_new_tokens=5, max_new_tokens=20,
        repetition_penalty=penalty,
    )[:, 4:].numpy()  # fmt: skip
    found = ours.tokens(pictures, draws(19))[:, 0]
    assert np.array_equal(found[:, : wanted.shape[1]], wanted)
    assert not found[:, wanted.shape[1] :].any()
    assert len(np.unique(found[:, 0])) > 1  # the pictures matter


def test_matching_logits_equal_transformers(matching: Made) -> None:
    pictures = matching.pictures(18)
    ours = BlipMatcher.load(str(matching.folder), EXACT)
    texts = [TEXTS[row % 3 : row % 3 + row % 7] for row in range(len(pictures))]
    inputs, wanted = matching.inputs(pictures), []
    with torch.no_grad():
        for row, several in enumerate(texts):
            for text in several:
                ids = torch.tensor([ids_of(text, ours._loaded.shape.encode)])
                wanted.append(matching.model(ids, inputs[row : row + 1]).itm_score[0].numpy())
    found = ours.logits(pictures, texts)
    assert found.shape == (sum(map(len, texts)), 2)
    assert np.abs(found - np.array(wanted)).max() < 1e-4
    scores = torch.softmax(torch.tensor(np.array(wanted)), -1)[:, 1].numpy()
    assert np.abs(np.concatenate(ours.match(pictures, texts)) - scores).max() < 1e-4
    assert np.std(scores) > 0.01


def test_contrastive_cosines_equal_transformers(matching: Made) -> None:
    pictures = matching.pictures(5)
    ours = BlipEmbedder.load(str(matching.folder), EXACT)
    found = ours.embed(pictures) @ ours.embed_texts(TEXTS).T
    with torch.no_grad():
        inputs = matching.inputs(pictures)
        for column, text in enumerate(TEXTS):
            wanted = matching.model(torch.tensor([ids_of(text, 101)]), inputs, use_itm_head=False).itm_score[:, 0]
            assert np.abs(found[:, column] - wanted.numpy()).max() < 1e-4
    assert load_embedder(str(matching.folder)).dim == ours.dim


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_bfloat16_is_as_near_as_it_can_be(shape: str, spread: float, tmp_path: Path) -> None:
    made = Made(tmp_path, blips.save(tmp_path, SHAPES[shape], "matcher", spread), SHAPES[shape]["vision"]["image_size"])
    pictures, text = made.pictures(16), TEXTS[0]
    ids, inputs = torch.tensor([ids_of(text, 30523)] * 16), made.inputs(pictures)
    with torch.no_grad():
        wanted = made.model(ids, inputs).itm_score.numpy()
        theirs = made.model.bfloat16()(ids, inputs.bfloat16()).itm_score.float().numpy()
    ours = BlipMatcher.load(str(tmp_path), Compute(precision="bfloat16")).logits(pictures, [[text]] * 16)
    assert 0 < np.abs(ours - wanted).mean() < 1.5 * np.abs(theirs - wanted).mean()
    assert spread > 1 or np.abs(ours - wanted).max() < 2e-2
    one, other = (BlipEmbedder.load(str(tmp_path), compute).embed(pictures) for compute in (EXACT, Compute()))
    assert 0 < np.abs(one - other).max() < 2e-2


def test_texts_to_be_matched_start_with_enc_as_in_training_not_with_cls_as_in_the_demo(matcher: Made) -> None:
    pictures, text = matcher.pictures(4), "a dog runs in the park"
    ours = BlipMatcher.load(str(matcher.folder), EXACT).logits(pictures, [[text]] * 4)
    with torch.no_grad():
        by_first = {
            name: matcher.model(torch.tensor([ids_of(text, first)] * 4), matcher.inputs(pictures)).itm_score.numpy()
            for name, first in (("[ENC]", 30523), ("[CLS]", 101))
        }
    assert np.abs(ours - by_first["[ENC]"]).max() < 1e-4
    assert np.abs(ours - by_first["[CLS]"]).max() > 1e-2


# What a caption and a score depend on ----------------------------------------------------------------------------------


def test_captions_depend_on_their_picture_and_draws_alone(captioner: Made) -> None:
    pictures, drawn = captioner.pictures(21), draws(21, captions=2)
    ours = load_captioner(str(captioner.folder), Sampling())
    whole = ours.captions(pictures, drawn)
    order = np.random.default_rng(3).permutation(21)
    assert ours.captions(pictures[order], drawn[order]) == [whole[one] for one in order]
    assert ours.captions(pictures[4:5], drawn[4:5]) == whole[4:5]
    assert ours.captions(pictures[:7], drawn[:7, 1:]) == [several[1:] for several in whole[:7]]
    assert len({text for several in whole for text in several}) > 21
    assert ours.captions(pictures[:0], drawn[:0]) == []


def test_scores_depend_on_their_picture_and_text_alone(matcher: Made) -> None:
    pictures = matcher.pictures(20)
    ours = load_matcher(str(matcher.folder))
    whole = ours.match(pictures, [TEXTS] * 20)
    alone = [ours.match(pictures[row : row + 1], [[text]])[0][0] for row, text in ((3, TEXTS[0]), (19, TEXTS[5]), (16, TEXTS[6]))]
    assert alone == [whole[3][0], whole[19][5], whole[16][6]]
    assert ours.match(pictures[::-1], [TEXTS[::-1]] * 20) == [several[::-1] for several in whole[::-1]]
    assert ours.match(pictures[:3], [[], TEXTS[:1], []]) == [[], whole[1][:1], []]
    assert ours.match(pictures[:0], []) == []
    assert all(0 <= score <= 1 for several in whole for score in several)


def test_texts_of_which_nothing_is_left_are_not_read(matcher: Made) -> None:
    ours = load_matcher(str(matcher.folder))
    assert [ours.reads(text) for text in ("...", " !!! ", "#", "", "a", "犬", " " * 9000 + "dog")] == [False] * 4 + [True] * 3


def test_a_caption_has_at_least_and_at_most_so_many_tokens(captioner: Made) -> None:
    ours = BlipCaptioner.load(str(captioner.folder), Sampling(min_tokens=3, max_tokens=6), EXACT)
    ours._loaded.params["head.bias"][102] = 50.0  # it would stop at once
    tokens = ours.tokens(captioner.pictures(3), draws(3, steps=6))[:, 0]
    assert (tokens[:, 3] == 102).all()
    assert (tokens[:, :3] != 102).all()
    assert not tokens[:, 4:].any()


def test_the_prompt_is_no_part_of_a_caption_and_words_are_put_together(captioner: Made) -> None:
    ours = BlipCaptioner.load(str(captioner.folder), GREEDY, EXACT)
    ids = ours._loaded.tokenizer.encode("a man's skateboarding", add_special_tokens=False).ids
    assert ours._text([*ids, 102, 0, 0]) == "a man's skateboarding"
    assert ours._text([102, 0]) == ""


def test_a_full_gpu_is_told_as_such_also_behind_another_error() -> None:
    with pytest.raises(OutOfDeviceMemory, match="mine: 128 images a call do not fit"), out_of_memory_told("mine", 128):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfDeviceMemory), out_of_memory_told("mine", 128):
        try:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    with pytest.raises(RuntimeError, match="another"), out_of_memory_told("mine", 128):
        raise RuntimeError("another")


class StubGraph:
    """A CUDA graph that cannot be replayed before it was recorded to the end."""

    recorded = False

    def replay(self) -> None:
        assert self.recorded


def test_a_recording_that_failed_is_tried_again_and_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, failing = [], [True]

    @contextmanager
    def graph(recorded: StubGraph, **_: object) -> Iterator[None]:
        made.append(recorded)
        yield
        if failing.pop():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        recorded.recorded = True

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {"Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda given: nullcontext(),
                        "CUDAGraph": StubGraph, "graph": graph, "graph_pool_handle": lambda: 1}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    failing.append(True)
    failing[0] = False
    given = SimpleNamespace(device=SimpleNamespace(type="cuda"), copy_=lambda other, non_blocking: None)
    given.clone = lambda: given
    call = Graphed(lambda one: one, GraphMemory())
    with pytest.raises(torch.cuda.OutOfMemoryError):
        call((given,))
    assert call((given,)) is given
    assert call((given,)) is given
    assert len(made) == 2


# Sampling --------------------------------------------------------------------------------------------------------------


SAMPLINGS = [Sampling(), Sampling(top_k=0), Sampling(top_p=0.5, repetition_penalty=1.7), Sampling(top_p=1.0, top_k=5)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_tokens_are_drawn_with_the_chances_that_transformers_gives_them(sampling: Sampling) -> None:
    from transformers import generation

    rng, count = np.random.default_rng(5), 20_000
    logits = torch.from_numpy(rng.normal(0, 2, (1, 300)).astype(np.float32))
    before = torch.tensor([[3, 77, int(logits.argmax())]])
    wanted = generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(before, logits.clone())
    wanted = generation.TopKLogitsWarper(sampling.top_k)(before, wanted) if sampling.top_k else wanted
    wanted = generation.TopPLogitsWarper(sampling.top_p)(before, wanted) if sampling.top_p < 1 else wanted
    places = torch.linspace(0, 1, count + 1)[:-1]
    found = next_tokens(sampling, logits.expand(count, -1), before.expand(count, -1), places)
    shares = torch.bincount(found, minlength=300) / count
    assert (shares - torch.softmax(wanted, -1)[0]).abs().max() < 2e-4


def test_of_equally_likely_tokens_the_smaller_number_comes_first() -> None:
    logits, draws = torch.zeros(4, 1000), torch.tensor([0.0, 0.019, 0.5, 1.0])
    chosen = next_tokens(Sampling(top_p=1.0), logits, torch.zeros(4, 0, dtype=torch.int64), draws)
    assert chosen[0] < chosen[2] < chosen[3]
    assert chosen[0] == chosen[1]


# Texts -----------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_texts_are_cleaned_as_in_the_authors_code(text: str) -> None:
    text = " ".join(text.split())  # their code leaves odd spaces inside; they are one space to the tokeniser
    theirs = re.sub(r"\s{2,}", " ", re.sub(r"([.!\"()*#:;~])", " ", text.lower())).rstrip("\n").strip(" ")
    assert cleaned(text) == " ".join(theirs.split(" ")[:30])


# Checkpoints -----------------------------------------------------------------------------------------------------------


def damaged(source: Path, folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Copy a checkpoint and change its config: vision__width is vision_config's."""
    shutil.copytree(source, folder)
    config = json.loads((folder / CONFIG).read_text())
    for name, value in (changes or {}).items():
        owner, _, key = name.rpartition("__")
        (config[f"{owner}_config"] if owner else config)[key] = value
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "clip"}, "does not describe a BLIP model"),
        ({"vision__hidden_act": "quick_gelu"}, "'quick_gelu', not 'gelu'"),
        ({"vision__hidden_size": "x"}, "does not describe a BLIP model"),
        ({"vision__hidden_size": 128}, "a checkpoint of another size: vision_model.embeddings.class_embedding is"),
        ({"vision__image_size": 80}, "another size: vision_model.embeddings.position_embedding"),
        ({"text__num_hidden_layers": 3}, "another architecture: model.safetensors lacks text_decoder.bert.encoder.layer.2"),
        ({"vision__num_attention_heads": 7}, "sizes are not multiples"),
        ({"text__bos_token_id": 30523}, "a special token is none of the 30524 words"),
        ({"text__bos_token_id": -9}, "a special token is none of"),
        ({"text__sep_token_id": 10**12}, "a special token is none of"),
        ({"text__max_position_embeddings": 16}, "too few for the 35 tokens"),
        ({"vision__patch_size": 0}, "a size is less than 1"),
        ({"vision__image_size": float("inf")}, "does not describe a BLIP model"),
    ],
)
def test_a_config_that_does_not_fit_is_told_in_one_line(
    captioner: Made, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = damaged(captioner.folder, tmp_path / "model", changes)
    for call in (inspect, open_checkpoint):
        with pytest.raises(ModelError) as error:
            call(str(folder), "captioner")
        assert told in str(error.value)
        assert "\n" not in str(error.value)


def test_tokenizers_and_numbers_that_do_not_fit_are_told(captioner: Made, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = damaged(captioner.folder, tmp_path / "garbage")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot read its tokenizer"):
        inspect(str(folder), "captioner")
    folder = damaged(captioner.folder, tmp_path / "larger")
    known = json.loads((folder / "tokenizer.json").read_text())
    known["model"]["vocab"]["##zzzz"] = 30524
    (folder / "tokenizer.json").write_text(json.dumps(known))
    with pytest.raises(ModelError, match="has a token 30524, the model knows 30524"):
        inspect(str(folder), "captioner")
    folder = damaged(captioner.folder, tmp_path / "whole")
    save_file({name: value.to(torch.int8) for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    with pytest.raises(ModelError, match="in I8; only F32, F16, BF16 are read"):
        inspect(str(folder), "captioner")
    folder = damaged(captioner.folder, tmp_path / "nested")
    (folder / CONFIG).write_text("[" * 200_000)
    with pytest.raises(ModelError, match="does not describe a BLIP model"):
        inspect(str(folder), "captioner")


def test_a_captioner_is_no_matcher(captioner: Made, matcher: Made) -> None:
    for folder, kind, lacks in ((captioner.folder, "matcher", "text_encoder."), (matcher.folder, "captioner", "text_decoder.")):
        with pytest.raises(ModelError, match=f"another architecture: model.safetensors lacks {lacks}"):
            inspect(str(folder), kind)


def test_weights_that_are_missing_cut_off_or_pickles_are_told(captioner: Made, tmp_path: Path) -> None:
    folder = damaged(captioner.folder, tmp_path / "model")
    whole = (folder / WEIGHTS).read_bytes()
    for body, told in ((whole[: len(whole) // 2], "it is cut off"), (whole[:100], "not a safetensors file"), (b"", "no header"),
                       (b"<html>", "no header"), (b"\x80\x02}q\x00." * 9, "not a safetensors file")):  # fmt: skip
        (folder / WEIGHTS).write_bytes(body)
        with pytest.raises(ModelError, match=told):
            inspect(str(folder), "captioner")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"does not exist; pytorch_model\.bin is a pickle, which is never read"):
        inspect(str(folder), "captioner")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json or vocab\.txt"):
        load_captioner(str(folder), Sampling())
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_captioner(str(tmp_path / "nothing"), Sampling())


@pytest.fixture(scope="module")
def split(captioner: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the captioner's checkpoint in several files."""
    folder = damaged(captioner.folder, tmp_path_factory.mktemp("split") / "model")
    (folder / WEIGHTS).unlink()
    captioner.model.save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_weights_in_several_files_are_those_of_one_and_each_is_part_of_their_identity(
    captioner: Made, split: Path, tmp_path: Path
) -> None:
    one, several = (open_checkpoint(str(path), "captioner").tensors("captioner") for path in (captioner.folder, split))
    assert one.keys() == several.keys()
    assert all(torch.equal(one[name], several[name]) for name in one)
    listed = subprocess.run("sha256sum model-*.safetensors | sha256sum", shell=True, cwd=split, capture_output=True, text=True)
    assert inspect(str(split), "captioner") == (None, listed.stdout.split()[0], captioner.side)
    for path in sorted(split.glob("model-*.safetensors")):
        shutil.copytree(split, tmp_path / path.name)
        (tmp_path / path.name / path.name).write_bytes(path.read_bytes()[:-1] + b"\x01")
        assert inspect(str(tmp_path / path.name), "captioner")[1] != listed.stdout.split()[0]


def test_an_index_that_does_not_fit_its_files_is_told_in_one_line(split: Path, tmp_path: Path) -> None:
    folder = damaged(split, tmp_path / "model")
    index = folder / INDEX
    mapped = json.loads(index.read_text())["weight_map"]
    last = sorted(set(mapped.values()))[-1]
    rest = {name: file for name, file in mapped.items() if file != last}
    for body, told in (("{", "cannot read model.safetensors.index.json"), ("[]", "cannot read"),
                       ('{"weight_map": {}}', "it lists no files"),
                       (json.dumps({"weight_map": {"a": "../x.safetensors"}}), "no name of a safetensors file"),
                       (json.dumps({"weight_map": {"a": 1}}), "cannot read"),
                       (json.dumps({"weight_map": rest}), "index.json lacks")):  # fmt: skip
        index.write_text(body)
        with pytest.raises(ModelError, match=told) as error:
            inspect(str(folder), "captioner")
        assert "\n" not in str(error.value)
    index.write_text(json.dumps({"weight_map": mapped}))
    shutil.copy(folder / last, folder / "model-again.safetensors")
    index.write_text(json.dumps({"weight_map": {**mapped, "more": "model-again.safetensors"}}))
    with pytest.raises(ModelError, match="and in another file"):
        inspect(str(folder), "captioner")
    index.write_text(json.dumps({"weight_map": mapped}))
    (folder / last).unlink()
    with pytest.raises(ModelError, match=f"{last} does not exist"):
        inspect(str(folder), "captioner")


def converted(told: str) -> None:
    """Run the command at the end of a message."""
    command = told[told.index("python -c ") :].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pth"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(captioner: Made, name: str, tmp_path: Path) -> None:
    folder = damaged(captioner.folder, tmp_path / "it's a model")
    (folder / WEIGHTS).unlink()
    tensors, half = list(captioner.model.state_dict().items()), 40 if "-of-" in name else None
    torch.save(dict(tensors[:half]) if half else {"model": dict(tensors)}, folder / name)
    if half:
        torch.save(dict(tensors[half:]), folder / name.replace("00001", "00002"))
    torch.save({}, folder / "a_state.pt")
    for spec in (folder, folder / name):
        with pytest.raises(ModelError, match=f"{name} is a pickle, which is never read: convert it with python -c ") as error:
            load_captioner(str(spec), Sampling())
        assert "\n" not in str(error.value)
    converted(str(error.value))
    one, other = (open_checkpoint(str(path), "captioner").tensors("captioner") for path in (captioner.folder, folder))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_of_questions_and_answers_is_no_captioner(captioner: Made, tmp_path: Path) -> None:
    folder = damaged(captioner.folder, tmp_path / "model", {"architectures": ["BlipForQuestionAnswering"]})
    with pytest.raises(ModelError, match="BlipForQuestionAnswering answers questions and writes no captions") as error:
        inspect(str(folder), "captioner")
    assert "\n" not in str(error.value)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_crash_the_header_parser(tmp_path_factory: pytest.TempPathFactory, body: bytes, framed: bool) -> None:
    from curate.models.blip.weights import header

    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(body).to_bytes(8, "little") + body if framed else body)
    try:
        found = header(path)
    except ValueError:
        return
    assert isinstance(found, dict)


def test_a_vocabulary_makes_the_same_tokens_as_the_tokenizer_file(captioner: Made, tmp_path: Path) -> None:
    folder = damaged(captioner.folder, tmp_path / "model")
    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.__getitem__)))
    one, other = (open_checkpoint(str(path), "captioner").tokenizer() for path in (folder, captioner.folder))
    for text in TEXTS:
        assert one.encode(text[:1000]).ids == other.encode(text[:1000]).ids
    pieces = one.encode("skateboarding unrecognisable", add_special_tokens=False)
    assert len(pieces) > 2
    assert one.decode(pieces.ids) == "skateboarding unrecognisable"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("hf:blip", "write hf:ORGANISATION/NAME"),
        ("hf:someone/model", "name the revision, a commit of 40 hex digits"),
        ("hf:someone/model@main", "a branch may move"),
    ],
)
@pytest.mark.parametrize("kind", ["captioner", "matcher"])
def test_a_model_of_the_hub_has_a_fixed_revision(spec: str, told: str, kind: Kind) -> None:
    with pytest.raises(ModelError, match=told):
        inspect(spec, kind)


HUB = """
import sys
from curate.core.errors import ModelError, OutOfDeviceMemory
from curate.models.blip.checkpoint import inspect, open_checkpoint
try:
    print(inspect(sys.argv[1], "captioner"), open_checkpoint(sys.argv[1], "captioner").shape.side)
except ModelError as error:
    print("ModelError", error)
"""


def on_hub(spec: str, home: Path) -> str:
    """Return what a process that may not use the network says of a spec, with this cache of the hub."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", HUB, spec], env=environment, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_the_hubs_models_come_from_its_cache_or_the_error_says_how_to_get_them(captioner: Made, tmp_path: Path) -> None:
    spec, revision = "hf:Salesforce/blip-image-captioning-base", "89b09ea1789f7addf2f6d6f0dfc4ce10ab58ef84"
    told = on_hub(spec, tmp_path)
    assert told.startswith(f"ModelError {spec}: not in the cache, and the hub cannot be reached")
    assert f"hf download Salesforce/blip-image-captioning-base --revision {revision}" in told
    assert "\n" not in told
    snapshot = tmp_path / "hub" / "models--Salesforce--blip-image-captioning-base" / "snapshots" / revision
    shutil.copytree(captioner.folder, snapshot)
    digest = inspect(str(captioner.folder), "captioner")[1]
    blob = tmp_path / "hub" / "models--Salesforce--blip-image-captioning-base" / "blobs" / str(digest)
    blob.parent.mkdir()
    (snapshot / WEIGHTS).rename(blob)
    (snapshot / WEIGHTS).symlink_to(blob)
    assert on_hub(spec, tmp_path) == f"('{revision}', '{digest}', 64) 64"


def test_a_model_of_the_hub_in_several_files_comes_from_its_cache(captioner: Made, split: Path, tmp_path: Path) -> None:
    name, revision = "someone--model", "89b09ea1789f7addf2f6d6f0dfc4ce10ab58ef84"
    home = tmp_path / "hub" / f"models--{name}"
    shutil.copytree(split, home / "snapshots" / revision)
    (home / "blobs").mkdir()
    for path in (home / "snapshots" / revision).glob("model-*.safetensors"):
        blob = home / "blobs" / file_sha256(path)
        path.rename(blob)
        path.symlink_to(blob)
    digest = inspect(str(split), "captioner")[1]
    assert on_hub(f"hf:someone/model@{revision}", tmp_path) == f"('{revision}', '{digest}', 64) 64"


# A whole run -----------------------------------------------------------------------------------------------------------


def test_a_run_with_a_checkpoint_writes_the_same_bytes_with_any_number_of_workers(
    captioner: Made, matcher: Made, tmp_path: Path
) -> None:
    tars = [running.make_tar(tmp_path / f"{n}.tar", running.pairs(range(9 * n, 9 * n + 9))) for n in range(2)]
    (tmp_path / "r.yaml").write_text(
        f"captions: {{model: {captioner.folder}, per_image: 2, cut: keep}}\n"
        f"filters:\n  caption_match: {{matcher: {matcher.folder}}}\n"
    )
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        done = running.curate("run", tmp_path / "r.yaml", *tars, "--out", out, "--workers", workers)
        assert done.returncode == 0, done.stderr
    assert running.written(tmp_path / "out1") == running.written(tmp_path / "out2")
    found = running.decisions(tmp_path / "out1")
    assert len(found) == 54
    assert all(row["caption_match"] is not None and row["text"] for row in found)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", "ray", "ban", "red", "car", "[DEC]", "[ENC]"]
SAYING = {
    "image_text_hidden_size": 32,
    "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32},
    "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
             "vocab_size": len(WORDS), "max_position_embeddings": 64, "bos_token_id": len(WORDS) - 2, "sep_token_id": 3},
}  # fmt: skip


def saying(folder: Path, followers: dict[str, str]) -> Path:
    """Write a captioner that says after each of these words the one that follows it."""
    model = blips.transformers().BlipForConditionalGeneration(blips.configured(SAYING))
    with torch.no_grad():
        bert, head = model.text_decoder.bert, model.text_decoder.cls.predictions
        for name, parameter in bert.encoder.named_parameters():
            parameter.fill_(float(name.endswith("LayerNorm.weight")))
        bert.embeddings.position_embeddings.weight.zero_()
        bert.embeddings.word_embeddings.weight.copy_(4 * torch.eye(len(WORDS), 32))
        for parameter in (head.bias, head.transform.dense.weight, head.transform.dense.bias):
            parameter.zero_()
        for word, follower in followers.items():
            head.transform.dense.weight[WORDS.index(follower), WORDS.index(word)] = 2.0
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.mark.parametrize(
    ("followers", "settings", "text", "wrong"),
    [
        ({"of": "ray", "ray": "ban", "ban": "ray"}, "", "ray ban ray ban ray ban ray ban", "repeated_phrase"),
        ({"of": "a", "a": "picture", "picture": "of"}, "", "a picture of a picture of a picture", "repeated_phrase"),
        ({"of": "red", "red": "car", "car": "[SEP]"}, "", "red car", None),
        ({"of": "red", "red": "car"}, ", max_tokens: 2", "red car", "cut_caption"),
        ({"of": "red", "red": "car"}, ", max_tokens: 2, cut: keep", "red car", None),
        ({"of": "a", "a": "picture", "picture": "[SEP]"}, ", prompt: A picture", "a picture", "repeated_prompt"),
    ],
)
def test_a_captioner_that_loops_repeats_its_prompt_or_does_not_end_gives_no_text(
    followers: dict[str, str], settings: str, text: str, wrong: str | None, tmp_path: Path
) -> None:
    model = saying(tmp_path / "model", followers)
    settings = f"model: {model}, precision: float32, top_k: 1, repetition_penalty: 1.0, min_tokens: 0{settings}"
    setup = running.Setup(
        f"captions: {{{settings}}}\nfilters:\n  caption_match: {{matcher: fake, at_least: 0.000001}}\n",
        [running.make_tar(tmp_path / "a.tar", running.pairs(range(2)))],
    )
    running.run_job(setup, tmp_path / "out")
    found = [row for row in running.decisions(tmp_path / "out") if row["source"] == "synthetic"]
    assert len(found) == 2
    for row in found:
        assert row["text"].startswith(text)
        assert (row["error"], row["dropped_by"]) == (wrong, wrong and "caption_match")
        assert (row["caption_match"] is None) == (wrong is not None)


def test_other_weights_in_the_same_folder_write_other_captions_and_may_be_refused(captioner: Made, tmp_path: Path) -> None:
    model = damaged(captioner.folder, tmp_path / "model")
    tar = running.make_tar(tmp_path / "a.tar", running.pairs(range(3)))
    (tmp_path / "r.yaml").write_text(f"captions: {{model: {model}, cut: keep}}\nfilters:\n  caption_match: {{matcher: fake}}\n")
    arguments = ["run", tmp_path / "r.yaml", tar, "--out", tmp_path / "out", "--workers", 1]
    assert running.curate(*arguments).returncode == 0
    first = running.decisions(tmp_path / "out")
    digest = json.loads((tmp_path / "out" / "manifest.json").read_text())["models"][0]["sha256"]
    blips.save(model, blips.SMALL, "captioner", spread=1.0)
    again = running.curate(*arguments, "--set", f"captions.weights={digest}")
    assert again.returncode == 1
    assert f"the recipe needs weights {digest}" in again.stderr
    refused = running.curate(*arguments)
    assert refused.returncode == 1 and "facts of caption: computed in another way" in refused.stderr
    assert running.curate(*arguments, "--replace").returncode == 0
    assert [row["text"] for row in running.decisions(tmp_path / "out")] != [row["text"] for row in first]
