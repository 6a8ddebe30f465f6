"""Evaluation against photographs that training has not seen."""
