"""The steps of `scripts/check_gpu.py`: each runs as `python -m gpu.NAME` in a process of its own."""
