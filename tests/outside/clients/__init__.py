"""The platforms' own clients against a running server; run by the interpreter of .venv-clients, without our code."""
