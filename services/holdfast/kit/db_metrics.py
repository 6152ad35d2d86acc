"""How much of a pool of connections is in use, and of what size it is."""

from prometheus_client import CollectorRegistry

from holdfast.kit.db import Database
from holdfast.kit.telemetry.metrics import asked


def watch_pool(registry: CollectorRegistry, db: Database) -> None:
    """Show the pool of a process."""
    asked(registry, "holdfast_db_pool_size", "Connections to the ledger, at most.", lambda: db.pool_size)
    asked(
        registry, "holdfast_db_pool_used", "Connections to the ledger that are in use.", lambda: db.pool_used
    )
