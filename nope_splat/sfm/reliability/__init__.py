"""Reliability of a finished reconstruction: evidence for and against it, notices, and a trust score."""
