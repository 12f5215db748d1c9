"""Theorem 3.7 and what improves on it: plans, counts, evidence. Sampling itself is in verifiers."""
