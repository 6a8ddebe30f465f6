"""Camera models, rigid motions and least squares: pure functions, independent of files and training."""
