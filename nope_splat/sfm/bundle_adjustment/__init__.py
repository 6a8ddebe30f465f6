"""Bundle adjustment: problem, reduced normal equations (Schur complement) and solver."""
