"""Doubt: evidence for and against a finished reconstruction, notices and a measure of trust."""
