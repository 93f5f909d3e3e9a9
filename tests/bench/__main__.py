"""Run the benchmarks named on the command line, or all; the last line is one JSON document with every figure."""

from __future__ import annotations

import importlib
import json
import sys
import time

NAMES = (
    "image_pass", "text_pass", "breakdown", "start", "memory", "merge", "lookup", "capfilt", "driver", "idle", "estimate",
    "engines", "fetch", "extract", "growing", "diff",
)  # fmt: skip


def main() -> int:
    """Return 0 when every target holds, else 1."""
    wanted = sys.argv[1:] or list(NAMES)
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    found = []
    for name in wanted:
        started = time.perf_counter()
        figures = importlib.import_module(f"tests.bench.{name}").run()
        for figure in figures:
            verdict = "holds" if figure.holds else "FAILS"
            print(f"{figure.name:34} {figure.value:14,.4g} {figure.unit:22} {figure.target:14} {verdict}", flush=True)
            for key, value in figure.more.items():
                print(f"    {key}: {value}")
        print(f"    ({name} took {time.perf_counter() - started:.0f} s)", flush=True)
        found += [figure.described() for figure in figures]
    print(json.dumps({"figures": found, "holds": all(figure["holds"] for figure in found)}))
    return 0 if all(figure["holds"] for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
