"""Runners move tasks over shards: `local` on this machine, `ray` on a Ray cluster, `spark` on a Spark cluster."""
