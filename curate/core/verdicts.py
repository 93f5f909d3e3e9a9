"""What drops a record without being a filter, as decisions name it."""

from __future__ import annotations

REMOVED = "removed"
"""The record was taken out: nothing of it is shown (see curate.passes.removed)."""

MERGE_DUPLICATE = "merge_duplicate"
"""An output before this one in the same merge has the same image with the same text."""

MISSING_TEXT = "missing_text"
"""No filter drops it, but it has no text, and the recipe does not say that an empty one will do (`output.empty_text: keep`)."""

TAKEN_OUT = (REMOVED, MERGE_DUPLICATE)
"""What no threshold brings back."""

NOT_FILTERS = (*TAKEN_OUT, MISSING_TEXT)
