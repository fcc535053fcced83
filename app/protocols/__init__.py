"""The protocols of predictions: one file each."""
