"""How the embedded PostgreSQL is set up: as durable as in production, sized for one machine."""

from pathlib import Path

PORT = 5432  # of the unix socket's name only

_SETTINGS = {
    # Durability: an acknowledged write survives the crash of everything here.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # There are no replicas, so the log need not serve them.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # One machine that it shares with all services.
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",
    "random_page_cost": "1.1",
    "jit": "off",
    "autovacuum_naptime": "10s",
    # Within the data directory, for containers have small /dev/shm, and a killed server leaves nothing there.
    "dynamic_shared_memory_type": "mmap",
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
}


def server_options(sockets: Path, overrides: dict[str, str]) -> list[str]:
    """Return the server's options; they are given at each start, so older data directories follow along."""
    settings = {**_SETTINGS, "unix_socket_directories": _quoted(sockets), **overrides}
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def _quoted(folder: Path) -> str:
    """Quote a folder for a list of folders, where a comma divides and a double quote is doubled."""
    return '"' + str(folder).replace('"', '""') + '"'
