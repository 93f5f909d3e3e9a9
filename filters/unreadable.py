"""Rule on images that do not decode."""

from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.contracts import Batch, Filter, setting, threshold


@dataclass(frozen=True)
class Unreadable(Filter):
    """Drop what does not decode: no image, empty, cut off, damaged, or claiming too many pixels. Always on.

    A decoder's warning is damage, and damage is dropped unless every kind of it stands in `tolerate`. The evidence is
    'ok', 'damaged: a+b' with the kinds, or the reason why there is no picture. The size is checked in the header
    before anything is allocated. (LAION-400M kept 450,000 corrupt images: img2dataset issue 224.)

    >>> found = pa.array(["ok", "damaged: missing_eoi", "damaged: missing_eoi+truncated", "empty", None])
    >>> Unreadable(tolerate=("missing_eoi",)).keep(found).to_pylist()
    [True, True, False, False, True]
    """

    about = "image"
    paper = "img2dataset issue 224"
    evidence = pa.string()

    tolerate: tuple[str, ...] = threshold((), "kinds of damage that are kept: missing_eoi, header_junk, ...")
    max_decoded_bytes: int = setting(400_000_000, "bytes of the decoded picture; larger is too_many_pixels")

    def reads(self) -> tuple[str, ...]:
        """Name the fact: decoding, the one full decode of the image."""
        return ("decoding",)

    def measure(self, batch: Batch) -> pa.Array:
        """Return 'ok', the damage, or the reason."""
        return batch["decoding"]

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep 'ok', damage that is tolerated, and null (not decoded)."""
        accepted = [value for value in pc.unique(evidence).to_pylist() if value is None or self._accepts(value)]
        return pc.is_in(evidence, value_set=pa.array(accepted, pa.string()))

    def _accepts(self, value: str) -> bool:
        return value == "ok" or (value.startswith("damaged: ") and set(value[9:].split("+")) <= set(self.tolerate))

    def check(self) -> None:
        """Refuse kinds of damage that do not exist and a bound that every picture exceeds."""
        from curate.images.picture import DAMAGES

        unknown = [kind for kind in self.tolerate if kind not in DAMAGES]
        if unknown:
            near = get_close_matches(unknown[0], DAMAGES, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(DAMAGES)}"
            raise ValueError(f"tolerate: no damage is called {unknown[0]!r}; {hint}")
        if self.max_decoded_bytes < 1:
            raise ValueError("max_decoded_bytes must be at least 1")
