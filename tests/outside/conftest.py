"""What pytest finds in this folder."""

# These run in processes of their own, by test_clients.py, test_spark.py and test_workflows.py.
collect_ignore = ["clients", "spark", "workflows"]
