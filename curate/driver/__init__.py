"""One run: which passes, which shards are missing, what failed, what is said of it. Holds no record and decodes nothing."""
