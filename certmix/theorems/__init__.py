"""One file per result, in floats that propose. The judge has its own, rigorous ones."""
