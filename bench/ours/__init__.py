"""Holdfast itself as a contender: the whole suite as processes, asked through its public contract."""
