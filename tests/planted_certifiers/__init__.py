"""Certifiers for the tests of the soundness suite: small right ones, and ones with one planted mistake each."""
