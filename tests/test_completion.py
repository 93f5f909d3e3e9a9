"""The shell completes commands, recipes and the keys of --set (see pipelines/README.md)."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete

from curate.cli import main


@pytest.mark.parametrize(
    ("words", "begun", "found"),
    [
        (["run"], "ali", ["align", "align_capfilt"]),
        (["run", "align", "--set"], "min_s", ["min_side."]),
        (["plan", "align", "--set"], "caption_words.ma", ["caption_words.max_words="]),
        (["what-if", "out", "--set"], "output.lo", ["output.longest_side="]),
        (["run", "align", "--set"], "nothing.x", []),
        ([], "what", ["what-if"]),
    ],
)
def test_what_is_completed(words: list[str], begun: str, found: list[str]) -> None:
    shell = BashComplete(main, {}, "curate", "_CURATE_COMPLETE")
    assert [item.value for item in shell.get_completions(words, begun)] == found
