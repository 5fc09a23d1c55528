"""The relay: apply cycles that replay the live side's change log on the standby side."""
