"""General helpers: result cache, progress bars, range checks and device-dependent defaults of options."""
