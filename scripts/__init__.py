"""Demo, tests, benchmarks and measurements.

Those in folders are run from the root of the repository: `python -m scripts.benchmark.run --help`.
"""
