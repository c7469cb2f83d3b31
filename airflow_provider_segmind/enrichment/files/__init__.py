"""Tables in files: JSONL, CSV and Parquet."""
