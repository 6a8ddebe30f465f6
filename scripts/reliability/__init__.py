"""Benchmark of reliability: image sets that mislead structure from motion, and honest image sets.

"Honest" sets contain nothing misleading; all others are "traps". Reconstructions are judged against true
cameras.
"""
