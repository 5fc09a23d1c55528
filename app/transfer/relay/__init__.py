"""The relay: apply cycles that replay the change log on the standby side."""
