"""Stand-ins for the world outside Holdfast: real protocols on loopback, invented content."""
