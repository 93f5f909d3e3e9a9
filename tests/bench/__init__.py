"""Benchmarks: `make bench`, or one of them by `python -m tests.bench NAME`. Each fingerprints its figures beside its target."""
