"""Measurements of the engine and the service on the machine at hand."""
