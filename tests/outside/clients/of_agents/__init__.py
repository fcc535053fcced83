"""Tests of the platforms' clients against a classifier."""
