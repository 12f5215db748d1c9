"""The judge: re-derives every certificate from the networks and inputs themselves. FORMAT.md is the specification."""
