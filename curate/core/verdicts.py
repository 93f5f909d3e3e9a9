"""What drops a record without being a filter, as decisions name it, and the errors of records that could not be read."""

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

UNREADABLE = frozenset(
    [
        *("missing_image", "missing_url", "image_too_large", "image_not_found", "image_is_url", "unsafe_path"),
        *("bad_base64", "bad_json", "bad_row"),
    ]
)
"""The errors (curate.sources.records.ERRORS) of a record that could not be read: its image, its address or its fields are not
known. Images that do not decode are not among them: the filter `unreadable` drops these, as crawls have many."""
