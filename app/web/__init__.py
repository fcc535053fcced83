"""One request in, one reply out. Runs no model."""
