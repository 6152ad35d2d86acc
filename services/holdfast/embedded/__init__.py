"""A real PostgreSQL that starts with its parent process and never outlives it."""

from holdfast.embedded.error import DirectoryInUseError, EmbeddedError, StartError
from holdfast.embedded.server import EmbeddedPostgres, default_data_directory

__all__ = [
    "DirectoryInUseError",
    "EmbeddedError",
    "EmbeddedPostgres",
    "StartError",
    "default_data_directory",
]
