"""Monitoring of the service: rules and a dashboard as code, and a local Prometheus. Not in the image."""
