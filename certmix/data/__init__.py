"""Datasets: one file per format, what looks wrong about one. Nothing about models."""
