"""The command line: thin commands that load, call the library once and print."""
