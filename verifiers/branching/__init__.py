"""Branch and bound on the native engine's backward pass."""
