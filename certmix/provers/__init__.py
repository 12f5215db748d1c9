"""Engines' answers to proposed claims to the judge: one prover per theorem. Nothing about folders or options."""
