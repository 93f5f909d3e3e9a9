"""BLIP: captioner, matcher and embedder from checkpoints in the hub's format (Li et al. 2022)."""
