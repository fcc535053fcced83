"""Routes that answer no predictions."""
