"""Camera models and rigid motions: pure functions, which know neither files nor training."""
