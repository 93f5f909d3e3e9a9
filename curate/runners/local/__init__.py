"""The runner for one machine: worker processes, corpus counts on DuckDB."""
