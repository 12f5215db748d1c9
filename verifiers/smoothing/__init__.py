"""Noise draws of a base classifier and confidence bounds of their counts. Theorems are above."""
