"""Benchmarks of Alcove beside the runtimes people would otherwise use; run with ``python -m bench``."""
