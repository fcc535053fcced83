"""Benchmarks of the engine and the service on this machine."""
