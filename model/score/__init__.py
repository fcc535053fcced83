"""Bulk scoring: tables in, the same tables with a column more out, in constant memory and on all cores."""

FORMATS = ("csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst", "parquet", "arrow", "arrows")
"""What is written: what the name of an output may end in, behind a point."""
