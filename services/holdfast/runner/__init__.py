"""The runner: runs agent code, and holds no secrets of the platform."""
