"""Approval: no run waits forever, no decision is lost or forged."""
