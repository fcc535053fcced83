"""gunicorn's side of the service: the worker that reads requests and sends replies, and the hooks of its processes.

Nothing else in `app` imports it.
"""
