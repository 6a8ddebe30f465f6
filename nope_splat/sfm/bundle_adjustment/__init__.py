"""Bundle adjustment: the problem, its normal equations with the points eliminated, the solver."""
