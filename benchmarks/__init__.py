"""Benchmarks of Frontdesk, each compared with a limit or a peer in the same run: `python -m benchmarks`."""
