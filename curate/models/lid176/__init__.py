"""fastText's lid.176 (Joulin et al. 2016), quantised: 176 languages. The weights have their own licence: NOTICE.md."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Any

from curate.models.pinned import verified

SPEC = "lid.176"
SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
"""Of lid.176.ftz, hex."""


@cache
def load() -> Any:
    """Return the model, the same object at every call. Raises ModelError where the file is another one.

    Its `predict(list of str)` returns lists of label arrays and of score arrays, float32; a text must hold no newline.
    """
    import fasttext

    with as_file(files(__name__).joinpath("lid.176.ftz")) as path:
        return fasttext.FastText._FastText(model_path=str(verified(SPEC, path, SHA256)))
