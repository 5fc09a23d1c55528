"""The plan of a transfer: the tables to transfer, and the problems that prevent it."""
