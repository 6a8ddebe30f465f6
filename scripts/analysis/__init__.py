"""Measurements of memory, scaling, depth options and camera noise; fuzzing and killing of processes."""
