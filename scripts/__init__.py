"""Scripts of the demo, tests, benchmarks and measurements.

Run the scripts in folders from the root of the repository, for example `python -m scripts.benchmark.run
--help`.
"""
