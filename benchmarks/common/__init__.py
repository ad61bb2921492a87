"""What the benchmarks share; each of them answers one question and imports no other."""
