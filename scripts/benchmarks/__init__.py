"""What scripts/benchmark.py measures, and the processes that measure it."""
