"""What watches the service: rules and a dashboard as code, and a Prometheus to try them with. Not in the image."""
