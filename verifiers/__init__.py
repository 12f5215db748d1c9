"""Bounding engines, all untrusted: they answer `engine.MarginQuery`."""
