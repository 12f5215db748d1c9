"""Rules for Theorem 3.5: constants derived again (Jacobians, LipSDP, norms of layers), and their radius."""
