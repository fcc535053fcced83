"""One request in, one reply out. Knows no model."""
