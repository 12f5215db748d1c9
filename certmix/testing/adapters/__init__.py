"""Certifiers in the suite's protocols: certmix's own methods, auto_LiRPA as it is, ART's, a Cohen-style script.

Each module imports its library when it is called; name them as certmix.testing.adapters.MODULE:FUNCTION.
"""
