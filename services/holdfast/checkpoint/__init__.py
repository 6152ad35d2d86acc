"""Checkpoint: what was acknowledged survives; what was fenced never lands."""
