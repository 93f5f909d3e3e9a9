"""Worker processes on this machine; corpus counts on DuckDB."""
