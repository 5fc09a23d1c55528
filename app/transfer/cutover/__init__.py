"""Cutover and rollback: preconditions, steps, report."""
