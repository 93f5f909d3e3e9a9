"""Corpus counts: what a record contributes, the merge over the whole corpus, the look-up. Knows no image and no recipe."""
