"""The steps of `scripts/check_gpu.py`: each runs as `python -m scripts.gpu.NAME` in a process of its own."""
