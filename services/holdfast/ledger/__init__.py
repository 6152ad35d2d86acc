"""The one source of truth: every change that must be atomic is one verb, one transaction."""
