"""Linear forms on one node's value, on the untrusted side: how their coefficients lie in memory, and sums of them."""
