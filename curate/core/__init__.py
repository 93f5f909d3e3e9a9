"""Shared by all layers: contracts, facts, errors, shards, hashes, timings. Imports nothing else of curate."""
