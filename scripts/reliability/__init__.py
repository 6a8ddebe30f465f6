"""Image sets that mislead structure from motion, and honest ones, judged against their true cameras."""
