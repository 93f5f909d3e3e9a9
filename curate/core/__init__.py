"""What everybody speaks of: contracts, facts, errors, shards, hashes, timings. Imports nothing else of curate."""
