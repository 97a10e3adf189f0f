"""One module for each rival, run as a process of its own: python -m rivals.torch_ '{"case": ..., "round": 0, "seconds": 2}'."""
