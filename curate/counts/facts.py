"""The facts that corpus counts provide."""

import pyarrow as pa

from curate.core.facts import Fact, declare

COUNT_FACTS = (
    Fact("texts_per_image", pa.int64(), "image", "different texts under this image; null below the floor"),
    Fact("images_per_text", pa.int64(), "text", "different images under this text; null below the floor"),
    Fact("rarest_ngram", pa.int64(), "text", "corpus count of the text's rarest unigram or bigram; 0 below the floor"),
    Fact("first_pair", pa.string(), "image", "shard/row of the first record with this image and text, if another"),
    Fact("first_image", pa.string(), "image", "shard/row of the first record with this image, if another"),
)

declare(COUNT_FACTS)
