"""A real PostgreSQL that starts with its parent process and never outlives it."""
