"""Search for the best model of a table that can be served exactly, in a time or in a number of trials."""
