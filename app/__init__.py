"""The HTTP service: `create_app` builds it, gunicorn runs it."""

from app.factory import create_app

__all__ = ["create_app"]
