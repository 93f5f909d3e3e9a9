"""Runners move tasks over shards: `local` on this machine."""
