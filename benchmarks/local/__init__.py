"""What the benchmarks share: one cheap server on loopback and the arithmetic of a table."""
