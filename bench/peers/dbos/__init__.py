"""DBOS as a contender: run in an environment of its own, never in ours."""
