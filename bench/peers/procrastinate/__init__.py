"""Procrastinate, a task queue on PostgreSQL without a broker: what it does with events."""
