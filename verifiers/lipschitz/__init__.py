"""Lipschitz constants of logits: sampled, on balls, everywhere. What radius they give is a theorem, above."""
