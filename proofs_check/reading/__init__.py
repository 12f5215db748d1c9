"""Bytes to values: strict, and may only refuse. Nothing is proven here."""
