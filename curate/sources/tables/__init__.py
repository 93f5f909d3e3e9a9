"""Tables: parquet, csv and jsonl, and which of their columns is what."""
