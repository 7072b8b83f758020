"""Measurements kept over time, and comparisons that say how sure they are."""
