"""Make tests/data/demo: about 800 small real pairs with known defects, a tiny evaluation set, and the attribution.

    python tests/make_demo_data.py [OUT]        (OUT: tests/data; the sources are read from ../shared/data)

Kept as the record of how the data was made; nothing runs it but a test that wants the same bytes (for one version of
Pillow the same sources give the same files). Writes below OUT

    ATTRIBUTION.md             every source, its licence, each photo's address, the changes made
    demo/pairs/00000.tar ...   key.jpg|png|webp|gif, key.txt, key.json {"url": ...}: what a crawl would hand over
    demo/eval/*.jpg            photos that must not leak into training data
    demo/eval_sources.jsonl    file, source
    demo/truth.jsonl           file, key, source, defects, traits, copy_of (a file of eval/), edit

Only sources whose licence lets a copy into a repository are read. A pair's `defects` are all that is wrong with it by
ALIGN's rules with image_reuse at OVERUSED and caption_frequency at SHARED, counted here apart from the product:

    too_small       shorter side of at most 200 px          few_words       fewer than 3 words
    too_long        longer/shorter side of 3 or more        many_words      more than 20 words
    overused_image  one url under more than OVERUSED texts  shared_text     a text on more than SHARED images
    eval_copy       an edited copy of an image of eval/     gibberish       tokens that no other pair has
    broken          does not decode, or not to its end      duplicate_pair  not the first with this image and text
    no_text         no .txt                                 no_image        no image file

A broken file's sides are not judged. `traits` mark what is unusual and right: animated, cmyk, sixteen_bit, ...
"""

from __future__ import annotations

import io
import json
import random
import string
import struct
import sys
import tarfile
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
TARS = 4
OVERUSED = 30
SHARED = 10
SIDE = 240
"""Shorter side that pictures are scaled down to, in pixels: above the 200 of min_side."""

LICENSES = {4: "CC BY 2.0", 5: "CC BY-SA 2.0"}
LICENSE_URLS = {4: "https://creativecommons.org/licenses/by/2.0/", 5: "https://creativecommons.org/licenses/by-sa/2.0/"}

EVAL_ROWS = (2, 5, 8, 14, 19, 23, 26, 33, 36, 38, 46, 48)
EDITS = ("jpeg30", "half", "crop90", "grey", "brighter", "exact", "small_text", "border", "jpeg30", "half")
PDQ_EDITS = ("blur-a-little", "high-contrast", "sharpen-a-little", "shrink-a-little")
JUNK = ("image", "click to enlarge", "photo of the day")
CROWDED = "gramastar"
ICON = "openclipart/png/office/note_with_pin_nicu_bucul_03.png"

OBJECTS = {
    "ukbench01380": "A compact disc with Paganini's caprices in its case",
    "ukbench08976": "A turquoise plastic bin standing on a carpet",
    "ukbench08996": "A yellow plastic crate with small black and white boxes",
    "ukbench09012": "An acoustic guitar lying in its black case",
    "ukbench09040": "A white toy mailbox on a light carpet",
    "ukbench09060": "Two Texas license plates lying on a brown carpet",
    "ukbench09268": "A pack of coloured toothbrushes on a dark carpet",
    "ukbench09348": "A tube of hand cream on a dark floor",
    "ukbench09380": "A bottle of soy sauce on a wooden table",
}
LANGUAGES = {
    0: "Mehrere große Passagierflugzeuge stehen nebeneinander am Flughafen.",
    1: "Une petite cuisine aux murs jaunes avec un four à micro-ondes.",
    3: "Un autobús largo de color verde y blanco circula por la calle.",
    12: "猫と黄色い鳥が一緒に夕食を食べている",
    13: "Un segnale di stop rosso accanto a un grande cespuglio fiorito.",
    18: "Een dienblad met een broodje en friet naast een toetsenbord",
    24: "Мужчина разговаривает по телефону, стоя за синей машиной.",
    27: "Ένας άντρας φτιάχνει πίτσες στην κουζίνα του",
    32: "一只狗被拴在消防栓上",
    40: "Dwóch jeźdźców jedzie konno brzegiem plaży o poranku",
}
UNICODE = {
    21: "🎂 A family sits down at the table to have cake 🎉",
    31: "Ａ ｍａｎ drives a motor\u00adcycle down a\u00a0road in the fog…",
    42: "Nood\u200bles, meat \u2014 and broccoli \u201cwith a fork\u201d, \ufb01nally",
}


@dataclass
class Pair:
    """One record to write; `image` or `text` None where the file is missing."""

    source: str
    url: str
    image: bytes | None
    text: bytes | None
    planted: list[str] = field(default_factory=list)
    traits: list[str] = field(default_factory=list)
    copy_of: str | None = None
    edit: str | None = None
    ext: str = "jpg"


def rows(path: str) -> list[dict[str, object]]:
    """Return the objects of a JSON-lines file below SHARED_DATA."""
    return [json.loads(line) for line in (SHARED_DATA / path).read_text("utf-8").splitlines()]


def opened(source: str) -> Image.Image:
    """Return a source image as RGB without metadata, transparency on white."""
    image: Image.Image = Image.open(SHARED_DATA / source)
    image.load()
    image.info.clear()
    if image.mode in ("RGBA", "LA", "P", "PA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def shrunk(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Scale down to a shorter side of `side` pixels; smaller images stay as they are."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image, quality: int = 74) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=70, method=4)
    return out.getvalue()


def web(path: str) -> str:
    return "https://demo.example/" + path


def bomb(side: int = 40_000) -> bytes:
    """Return a PNG of a hundred bytes that claims `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def site_pairs() -> Iterator[Pair]:
    """Yield the blog's images under the alt-texts of its pages; an image on two pages comes twice."""
    made: dict[str, tuple[bytes, str]] = {}
    silent = 0
    for row in rows("site_18f/captions.jsonl"):
        path, alt = str(row["image"]), str(row["alt"]).strip()
        source = f"site_18f/{path}"
        if path.endswith(".svg") or not (SHARED_DATA / source).is_file():
            continue
        silent += not alt
        if not alt and silent > 20:
            continue
        if path not in made:
            small = shrunk(opened(source))
            turn = len(made) % 5
            if path.endswith(".png") and turn < 3:
                made[path] = (png(small.quantize(48)), "png")
            else:
                made[path] = (webp(small), "webp") if turn == 4 else (jpeg(small), "jpg")
        data, ext = made[path]
        yield Pair(source, web(f"18f/{path}"), data, alt.encode(), ext=ext)


def clip_text(row: dict[str, object], turn: int) -> str:
    """Return what a page would write under a piece of clip art: its title, description or keywords."""
    title, description = str(row["title"]).strip(), str(row["description"]).strip()
    if turn % 4 == 0 or title.count(" ") >= 2:
        return title
    if description.count(" ") >= 2:
        return description
    return " ".join([title, "clip art:", *[str(word) for word in row["keywords"]][:4]])  # type: ignore[attr-defined]


def clip_pairs(rng: random.Random) -> Iterator[Pair]:
    """Yield clip art; many titles are on very many pictures, and most pictures are tiny, as found."""
    crowded = turn = 0
    for row in rows("openclipart/captions_all.jsonl"):
        source = f"openclipart/png/{row['image']}"
        if not (SHARED_DATA / source).is_file():
            continue
        crowded += row["title"] == CROWDED
        if row["title"] == CROWDED and crowded > 24:
            continue
        image: Image.Image = Image.open(SHARED_DATA / source)
        data = (SHARED_DATA / source).read_bytes()
        if min(image.size) > SIDE or len(data) > 12_000:
            data = png(shrunk(image.convert("RGBA")).quantize(64, Image.Quantize.FASTOCTREE))
        text, planted = clip_text(row, turn), []
        if row["title"] != CROWDED and min(image.size) > 200:
            turn += 1
            if turn % 4 == 1:
                text = JUNK[turn // 4 % len(JUNK)]
            elif turn % 15 == 2:
                text, planted = gibberish(rng), ["gibberish"]
        yield Pair(source, web(f"clipart/{row['image']}"), data, text.encode(), planted, ext="png")


def gibberish(rng: random.Random) -> str:
    def word() -> str:
        return "".join(rng.choices(string.ascii_lowercase + string.digits, k=rng.randint(9, 14)))

    return f"image_tid {rng.randint(100, 999)}&id {word()}&cache 0&lan_code {word()}"


def photo_pairs() -> Iterator[Pair]:
    """Yield the COCO photos that are not in eval/, under two of their five captions each, some in other languages."""
    for number, row in enumerate(rows("coco_mini_ccby/captions.jsonl")):
        if number in EVAL_ROWS:
            continue
        source = f"coco_mini_ccby/{row['image']}"
        data = jpeg(shrunk(opened(source)))
        captions = [str(caption).strip() for caption in row["captions"]]  # type: ignore[attr-defined]
        url = web(f"photos/{Path(source).name}")
        traits: list[str] = []
        if number in LANGUAGES:
            captions[0], traits = LANGUAGES[number], ["non_english"]
        elif number in UNICODE:
            captions[0], traits = UNICODE[number], ["unicode"]
        elif number % 7 == 2:
            captions[0] = " ".join(captions)
        elif number % 7 == 4:
            captions[0] = " ".join(captions[0].split()[1:3])
        yield Pair(source, url, data, captions[0].encode(), traits=traits)
        yield Pair(source, url, data, captions[1].encode())


def object_pairs() -> Iterator[Pair]:
    for name, text in OBJECTS.items():
        source = f"neardup_imagededup/base_images/{name}.jpg"
        yield Pair(source, web(f"objects/{name}.jpg"), jpeg(shrunk(opened(source))), text.encode())


def icon_pairs() -> Iterator[Pair]:
    """Yield one icon as the preview of 42 pages."""
    source = ICON
    icon = png(opened(source).resize((224, 224)).quantize(16))
    titles = sorted({str(row.get("page_title") or "").strip() for row in rows("site_18f/captions.jsonl")} - {""})
    for title in titles[:42]:
        yield Pair(source, web("static/icon.png"), icon, f"Preview of {title}".encode(), ext="png")


def edited(image: Image.Image, edit: str) -> bytes:
    """Return a JPEG of an everyday edit of an evaluation image."""
    w, h = image.size
    if edit == "half":
        image = shrunk(image, max(212, min(w, h) // 2))
    elif edit == "crop90":
        image = image.crop((w // 20, h // 20, w - w // 20, h - h // 20))
    elif edit == "grey":
        image = image.convert("L")
    elif edit == "brighter":
        image = ImageEnhance.Brightness(image).enhance(1.25)
    elif edit == "border":
        image = ImageOps.expand(image, 8, "white")
    elif edit == "small_text":
        ImageDraw.Draw(image).text((w // 2, h - 16), "photos.example", "white")
    return jpeg(image, 30 if edit == "jpeg30" else 78)


def eval_set() -> dict[str, tuple[str, bytes]]:
    """Return file name -> (source, JPEG) of the evaluation set, at most 640 px wide or high."""
    coco = rows("coco_mini_ccby/captions.jsonl")
    sources = [f"coco_mini_ccby/{coco[number]['image']}" for number in EVAL_ROWS]
    sources += ["neardup_pdq/bridge-mods/aaa-orig.jpg", "neardup_imagededup/base_images/ukbench00120.jpg"]
    out = {}
    for number, source in enumerate(sources):
        image = opened(source)
        image.thumbnail((640, 640), Image.Resampling.LANCZOS)
        out[f"{number:02d}.jpg"] = (source, jpeg(image, 80))
    return out


def copy_pairs(evals: dict[str, tuple[str, bytes]]) -> Iterator[Pair]:
    """Yield copies of ten photos of the evaluation set, and the edits that the near-duplicate families came with."""
    coco = rows("coco_mini_ccby/captions.jsonl")
    for (name, (source, data)), row, edit in zip(evals.items(), EVAL_ROWS, EDITS, strict=False):
        captions = [str(caption).strip() for caption in coco[row]["captions"]]  # type: ignore[attr-defined]
        caption = sorted(captions, key=lambda words: words.count(" "))[2]
        copy = data if edit == "exact" else edited(Image.open(io.BytesIO(data)), edit)
        yield Pair(source, web(f"leak/{name}"), copy, caption.encode(), ["eval_copy"], copy_of=name, edit=edit)
    tree = "An old tree by the lake in autumn"
    families = [(f"neardup_pdq/bridge-mods/{edit}.jpg", "12.jpg", tree) for edit in PDQ_EDITS]
    families.append(("neardup_imagededup/ukbench00120_gray.jpg", "13.jpg", "A blue bag with a smiling clown"))
    for source, name, text in families:
        image = opened(source)
        image.thumbnail((480, 480), Image.Resampling.LANCZOS)
        edit = Path(source).stem
        words = f"{text}, {edit.replace('-', ' ').replace('_', ' ')}"
        yield Pair(source, web(f"leak/{edit}.jpg"), jpeg(image), words.encode(), ["eval_copy"], copy_of=name, edit=edit)


def broken_pairs() -> Iterator[Pair]:
    """Yield files that do not decode: cut off, no image at all, bombs, and a few that broke Pillow."""
    source = "site_18f/assets/blog/ca-child-welfare/ca-team.jpg"
    whole = jpeg(shrunk(opened(source)))
    progressive = io.BytesIO()
    shrunk(opened(source)).save(progressive, "JPEG", quality=70, progressive=True)
    page = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
    cases = [("quarter", whole[: len(whole) // 4]), ("half", whole[: len(whole) // 2]), ("tail", whole[:-2000])]
    cases += [("progressive", progressive.getvalue()[: progressive.tell() // 2]), ("header", whole[:20])]
    cases += [("page", page), ("login", page.replace(b"404 Not Found", b"Log in"))]
    cases += [("empty", b""), ("zeros", bytes(4000))]
    for name, data in cases:
        text = f"The workshop team after a long day, {name}"
        yield Pair(source, web(f"broken/{name}.jpg"), data, text.encode(), ["broken"])
    for side in (40_000, 2_000_000_000):
        text = f"A map of the world at a width of {side}"
        yield Pair("made", web(f"broken/map{side}.png"), bomb(side), text.encode(), ["broken"], ext="png")
    files = ("truncated_jpeg.jpg", "truncated_image.png", "broken_data_stream.png", "decompression_bomb.gif")
    for name in (*files, "unknown_compression_method.png"):
        source = f"adversarial_pillow/{name}"
        text = f"Portrait of a computer pioneer, file {name}"
        data = (SHARED_DATA / source).read_bytes()
        yield Pair(source, web(f"broken/{name}"), data, text.encode(), ["broken"], ext=name.rsplit(".", 1)[1])


def unusual_pairs() -> Iterator[Pair]:
    """Yield good pictures in forms that decoders meet seldom."""
    photo = "site_18f/assets/img/home/hero-ekiap.jpg"
    image = shrunk(opened(photo), 216)
    grey = image.convert("L")
    deep = Image.frombytes("I;16", grey.size, bytes(byte for value in grey.tobytes() for byte in (value, value)))
    frames = [image.quantize(32), ImageOps.mirror(image).quantize(32)]
    gif, turned = io.BytesIO(), io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=74, exif=exif)
    forms = [("cmyk", jpeg(image.convert("CMYK")), "jpg"), ("sixteen_bit", png(deep), "png")]
    forms += [("animated", gif.getvalue(), "gif"), ("exif_rotated", turned.getvalue(), "jpg")]
    forms.append(("grey", jpeg(grey), "jpg"))
    for trait, data, ext in forms:
        text = f"Children proudly showing their national park passes in {trait.replace('_', ' ')}"
        yield Pair(photo, web(f"unusual/{trait}.{ext}"), data, text.encode(), traits=[trait], ext=ext)
    for name in ("dispose_none.gif", "test.colors.gif"):
        source = f"adversarial_pillow/{name}"
        data = (SHARED_DATA / source).read_bytes()
        traits = ["animated"] if name == "dispose_none.gif" else []
        text = f"Test card for colours, {name}"
        yield Pair(source, web(f"unusual/{name}"), data, text.encode(), traits=traits, ext="gif")


def banner_pairs() -> Iterator[Pair]:
    """Yield strips of 3:1 and longer, and photos scaled to tiny ones."""
    for number, row in enumerate(rows("coco_mini_ccby/captions.jsonl")):
        if number in EVAL_ROWS or number % 5 != 1:
            continue
        source, caption = f"coco_mini_ccby/{row['image']}", str(row["captions"][2]).strip()  # type: ignore[index]
        wide = opened(source).resize((640, 427)).crop((0, 100, 640, 100 + 213 - number % 3 * 5))
        name = Path(source).stem
        yield Pair(source, web(f"banner/{name}.jpg"), jpeg(wide), caption.encode())
        yield Pair(source, web(f"thumb/{name}.jpg"), jpeg(shrunk(opened(source), 90 + number)), caption.encode())


def odd_pairs() -> Iterator[Pair]:
    """Yield records that lack a part, or whose text is not UTF-8."""
    source = "neardup_imagededup/base_images/ukbench09012.jpg"
    data = jpeg(shrunk(opened(source), 220))
    yield Pair(source, web("odd/no_text.jpg"), data, None, ["no_text"])
    yield Pair("made", web("odd/no_image.jpg"), None, b"An image that nobody could find again", ["no_image"])
    latin = "Eine Gitarre liegt im geöffneten Koffer".encode("latin-1")
    yield Pair(source, web("odd/latin1.jpg"), data, latin, traits=["not_utf8"])


def normalised(text: bytes) -> str:
    return " ".join(unicodedata.normalize("NFKC", text.decode("utf-8", "replace")).casefold().split())


def sides(pair: Pair) -> tuple[int, int] | None:
    """Return the shorter and longer side in pixels; None for what is broken or missing."""
    if pair.image is None or "broken" in pair.planted:
        return None
    width, height = Image.open(io.BytesIO(pair.image)).size
    return min(width, height), max(width, height)


def words_in(text: str) -> int:
    """Return about how many words a text has: of Chinese and Japanese, half of the characters."""
    return max(len(text.split()), sum("\u3040" <= character <= "\u9fff" for character in text) // 2)


def found(pair: Pair) -> list[str]:
    """Return the defects that a pair shows by itself."""
    out = []
    size = sides(pair)
    if size is not None:
        out += ["too_small"] * (size[0] <= 200) + ["too_long"] * (size[1] >= 3 * size[0])
    if pair.text is not None:
        words = words_in(normalised(pair.text))
        out += ["few_words"] * (words < 3) + ["many_words"] * (words > 20)
    return out


def defects(pairs: list[Pair]) -> list[list[str]]:
    """Return the defects of each pair, in order; counts see all pairs, as the product's do."""
    texts, images = defaultdict(set), defaultdict(set)
    for pair in pairs:
        if pair.text is not None and pair.image is not None:
            texts[pair.url].add(normalised(pair.text))
            images[normalised(pair.text)].add(pair.url)
    seen: set[tuple[str, str]] = set()
    out = []
    for pair in pairs:
        wrong = pair.planted + found(pair)
        if pair.text is not None and pair.image is not None:
            text = normalised(pair.text)
            wrong += ["overused_image"] * (len(texts[pair.url]) > OVERUSED)
            wrong += ["shared_text"] * (len(images[text]) > SHARED)
            wrong += ["duplicate_pair"] * ((pair.url, text) in seen)
            seen.add((pair.url, text))
        out.append(sorted(set(wrong)))
    return out


def all_pairs(evals: dict[str, tuple[str, bytes]]) -> list[Pair]:
    """Return every pair in the order of the tars."""
    rng = random.Random(1)
    pairs = [*site_pairs(), *clip_pairs(rng), *object_pairs(), *icon_pairs(), *copy_pairs(evals), *banner_pairs()]
    photos = list(photo_pairs())
    pairs += photos + photos[5:65:6]
    pairs += [*broken_pairs(), *unusual_pairs(), *odd_pairs()]
    rng.shuffle(pairs)
    return pairs


def members(key: str, pair: Pair) -> Iterator[tuple[str, bytes]]:
    if pair.image is not None:
        yield f"{key}.{pair.ext}", pair.image
    if pair.text is not None:
        yield f"{key}.txt", pair.text
    yield f"{key}.json", json.dumps({"url": pair.url}).encode()


def write_pairs(folder: Path, pairs: list[Pair]) -> None:
    """Write the tars below `folder`/pairs and the truth beside them."""
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    per_tar = -(-len(pairs) // TARS)
    truth = []
    wrong = defects(pairs)
    for shard in range(TARS):
        name = f"{shard:05d}.tar"
        with tarfile.open(folder / "pairs" / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(shard * per_tar, min(len(pairs), (shard + 1) * per_tar)):
                pair, key = pairs[number], f"{shard:05d}{number - shard * per_tar:04d}"
                for member, body in members(key, pair):
                    info = tarfile.TarInfo(member)
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
                row = {"file": name, "key": key, "source": pair.source, "defects": wrong[number], "traits": pair.traits}
                truth.append(row | {"copy_of": pair.copy_of, "edit": pair.edit})
    (folder / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth), "utf-8")


def write_evals(folder: Path, evals: dict[str, tuple[str, bytes]]) -> None:
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    for name, (_, data) in evals.items():
        (folder / "eval" / name).write_bytes(data)
    lines = [json.dumps({"file": name, "source": source}) + "\n" for name, (source, _) in evals.items()]
    (folder / "eval_sources.jsonl").write_text("".join(lines), "utf-8")


ORIGINS = {
    "site_18f": (
        "images and alt-texts of the site of 18F (github.com/18F/18f.gsa.gov), a United States government office",
        "CC0 1.0 / US public domain",
        f"scaled to a shorter side of {SIDE} px, re-encoded as JPEG, PNG or WebP; a few cut off on purpose, or stored "
        "as CMYK, 16 bit, GIF, rotated; alt-texts of the preview icon are ours",
    ),
    "openclipart": (
        "pictures, titles, descriptions and keywords of the Open Clip Art Library",
        "public domain",
        "scaled, reduced to 64 colours; some under texts that are junk on purpose",
    ),
    "coco_mini_ccby": (
        "photos by Flickr users with captions of COCO 2017 (cocodataset.org)",
        "photos as in the table below; captions CC BY 4.0, COCO Consortium",
        "scaled and re-encoded; copies for eval_overlap cropped, greyed, brightened, bordered or written on; strips "
        "and thumbnails cut; some captions joined, cut short or translated",
    ),
    "neardup_pdq": (
        "a photo and its edits, from the PDQ tests of github.com/facebook/ThreatExchange",
        "BSD 3-Clause, Copyright (c) 2014-present, Facebook, Inc. (notice below)",
        "scaled, re-encoded; texts are ours",
    ),
    "neardup_imagededup": (
        "photos from the tests of github.com/idealo/imagededup (of the ukbench set)",
        "Apache-2.0 (LICENSE of this repository), Copyright 2025 idealo internet GmbH",
        "scaled, re-encoded; texts are ours",
    ),
    "adversarial_pillow": (
        "broken and unusual files from the tests of github.com/python-pillow/Pillow",
        "MIT-CMU (HPND), Copyright (c) 1997-2011 Secret Labs AB, 1995-2011 Fredrik Lundh and contributors, "
        "2010 Jeffrey A. Clark and contributors (notice below)",
        "none; texts are ours",
    ),
    "made": ("claims of enormous PNGs, a text without image", "as the rest of this repository", "none"),
}

ATTRIBUTION = """# Where the demo data comes from

Written by `tests/make_demo_data.py`; `demo/truth.jsonl` and `demo/eval_sources.jsonl` name the source of each record.

| source | what | licence | changes made |
|---|---|---|---|
{origins}
The scaled, cut and edited photos under CC BY-SA 2.0 stay under CC BY-SA 2.0. COCO records each photo's address and
licence but not its author's name; the author is named on the page that the number in the address leads to.

## COCO photos

| photo | licence | address in COCO | author's page |
|---|---|---|---|
{photos}
## Notices

neardup_pdq: Copyright (c) 2014-present, Facebook, Inc. All rights reserved.

> Redistribution and use in source and binary forms, with or without modification, are permitted provided that
> the following conditions are met: Redistributions of source code must retain the above copyright notice,
> this list of conditions and the following disclaimer. Redistributions in binary form must reproduce the
> above copyright notice, this list of conditions and the following disclaimer in the documentation and/or
> other materials provided with the distribution. Neither the name Facebook nor the names of its contributors
> may be used to endorse or promote products derived from this software without specific prior written
> permission.
>
> THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED
> WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
> PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY
> DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO,
> PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION)
> HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING
> NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE
> POSSIBILITY OF SUCH DAMAGE.

adversarial_pillow: Copyright (c) 1997-2011 by Secret Labs AB, 1995-2011 by Fredrik Lundh and contributors, 2010 by
Jeffrey A. Clark and contributors.

> By obtaining, using, and/or copying this software and/or its associated documentation, you agree that you
> have read, understood, and will comply with the following terms and conditions: Permission to use, copy,
> modify and distribute this software and its documentation for any purpose and without fee is hereby granted,
> provided that the above copyright notice appears in all copies, and that both that copyright notice and this
> permission notice appear in supporting documentation, and that the name of Secret Labs AB or the author not
> be used in advertising or publicity pertaining to distribution of the software without specific, written
> prior permission.
>
> SECRET LABS AB AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE, INCLUDING ALL IMPLIED
> WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL SECRET LABS AB OR THE AUTHOR BE LIABLE FOR ANY
> SPECIAL, INDIRECT OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR
> PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN
> CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
"""


def attribution() -> str:
    """Return ATTRIBUTION.md; each photo's page follows from the number in its address."""
    lines = []
    for row in rows("coco_mini_ccby/captions.jsonl"):
        number = int(str(row["license_id"]))
        url = str(row["flickr_url"])
        page = "https://www.flickr.com/photo.gne?id=" + url.rsplit("/", 1)[1].split("_")[0]
        lines.append(f"| {row['image']} | [{LICENSES[number]}]({LICENSE_URLS[number]}) | {url} | {page} |\n")
    origins = "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in ORIGINS.items())
    return ATTRIBUTION.format(origins=origins, photos="".join(lines))


def main(out: Path) -> None:
    """Write everything below `out`."""
    evals = eval_set()
    write_evals(out / "demo", evals)
    write_pairs(out / "demo", all_pairs(evals))
    (out / "ATTRIBUTION.md").write_text(attribution(), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
