"""Approval: no run waits forever, no decision is lost or forged. This release holds the contract's place."""
