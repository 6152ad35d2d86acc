"""The peers, one folder each; what they import of ours is `bench.measure` and `bench.protocol` alone."""
