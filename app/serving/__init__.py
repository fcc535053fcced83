"""Which version answers, and how rows are run."""
