"""What pytest finds in this folder."""

# These run in environments of their own, by test_clients.py and test_workflows.py.
collect_ignore = ["clients", "workflows"]
