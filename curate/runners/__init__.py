"""Runners move tasks over items: `local` on this machine, `ray` and `spark` on clusters. Each knows its engine and no task."""
