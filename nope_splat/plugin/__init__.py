"""The nerfstudio method: configuration, data, model, training, viewer."""
