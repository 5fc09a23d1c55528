"""The plan of a transfer: what is moved, and what prevents it."""
