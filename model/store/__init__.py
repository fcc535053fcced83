"""Versions of models as bytes on disk."""
