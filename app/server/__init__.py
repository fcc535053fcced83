"""gunicorn's side of the service: the worker that receives requests and sends replies, and gunicorn's hooks.

Nothing else in `app` imports it.
"""
