"""What drops a record without being a filter, as decisions name it."""

from __future__ import annotations

REMOVED = "removed"
"""The record was taken out: nothing of it is shown (see curate.passes.removed)."""

MERGE_DUPLICATE = "merge_duplicate"
"""An output before this one in the same merge has the same image with the same text."""

NOT_FILTERS = (REMOVED, MERGE_DUPLICATE)
