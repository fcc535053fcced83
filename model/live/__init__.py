"""A version in use: its predictions, their truths, drift and errors."""
