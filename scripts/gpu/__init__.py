"""Steps of `scripts/check_gpu.py`. Each step runs in a separate process: `python -m scripts.gpu.NAME`."""
