"""Facts that need the whole corpus: one file per count, and the code that all of them share.

partial.py collects and writes what a shard contributes, merge.py merges all shards on the runner's engine, lookup.py reads
the result; these know no count by name. A count knows facts and group-bys, and no image, recipe or engine.
"""
