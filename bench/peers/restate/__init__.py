"""Restate as a contender: its server from npm, a Python service beside it, in an environment of their own."""
