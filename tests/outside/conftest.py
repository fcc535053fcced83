"""What pytest finds in this folder."""

# These run in an environment of their own, by test_clients.py.
collect_ignore = ["clients"]
