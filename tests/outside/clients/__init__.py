"""Tests with the platforms' own clients against a running server; they run in .venv-clients, without our code."""
