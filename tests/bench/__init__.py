"""Benchmarks: `make bench`, or one of them by `python -m tests.bench NAME`. Each prints its figures beside its target."""
