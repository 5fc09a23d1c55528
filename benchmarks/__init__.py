"""What Frontdesk costs, beside the limit or a peer measured in the same run: `python -m benchmarks`."""
