"""Steps of `scripts/check_gpu.py`; each runs as `python -m scripts.gpu.NAME` in a separate process."""
