"""Bulk scoring: tables in, the same tables with a column more out, in constant memory and on all cores."""
