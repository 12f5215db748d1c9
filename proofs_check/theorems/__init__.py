"""The theorems behind the rules, each proven by machine (z3): docs/maths.md 2 and 3 and 4 and 5 and 6 and 8
and 10 in first-order real arithmetic.

Not part of the judge, which imports none of this: here stands what a rule's inequality says about the claim, once the
quantities in it have been bounded. `statements` says each in words, and which rules and layer kinds rest on it; `in_z3`
proves them: tests/proofs_check/test_theorems.py runs that, and shows that no hypothesis can be left out.

What is taken from elsewhere stands as a hypothesis of its own: that exp is increasing, positive and convex, that
Phi^-1 of a Gaussian-smoothed function with values in [0, 1] is 1/sigma-Lipschitz, that Phi is increasing.
"""
