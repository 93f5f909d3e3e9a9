"""Runners run tasks over items: `local` on this machine, `ray` and `spark` on clusters.

What belongs here: how an engine starts workers, hands items to them, tells how they died, and computes a group-by. What
does not: what a task does, when an item is tried again, anything about shards, records or images.
"""
