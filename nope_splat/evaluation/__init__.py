"""Evaluation against images that training has not seen."""
