"""The nerfstudio method `nope-splat`: configuration, data, model, training and viewer."""
