"""Measurements, run by hand; they never pass or fail."""
