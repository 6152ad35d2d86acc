"""The engine: executes one run against a journal, so that what was recorded is never executed again."""
