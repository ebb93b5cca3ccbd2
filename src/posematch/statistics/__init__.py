"""Intervals of figures and of differences: photos resampled, seeds put together."""
