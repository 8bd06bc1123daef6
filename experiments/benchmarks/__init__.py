"""Measurements of the library itself: what it costs beside the shortest code that computes the same thing."""
