"""Lay the package out as a wheel does, in links: mypy and the import contracts look at what is installed.

In a checkout the rules lie in filters/, beside the package, and curate.filters finds them when it is imported; tools that
import nothing do not. Usage: layout.py FOLDER
"""

import sys
from pathlib import Path
from shutil import rmtree

ROOT = Path(__file__).resolve().parents[1]


def main(folder: Path) -> None:
    """Write FOLDER/curate anew."""
    rmtree(folder, ignore_errors=True)
    for source, target in (("curate", "curate"), ("filters", "curate/filters")):
        for path in sorted((ROOT / source).rglob("*.py*")):
            if path.is_file() and path.suffix in (".py", ".pyi", ".typed"):
                link = folder / target / path.relative_to(ROOT / source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
