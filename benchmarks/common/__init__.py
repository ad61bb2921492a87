"""Parts that the benchmarks share; each benchmark answers one question and does not import another."""
