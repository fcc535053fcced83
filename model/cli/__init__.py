"""The command line, a file for each room that its commands use."""
