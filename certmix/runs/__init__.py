"""A folder of evidence: written, resumed, reopened, and what follows from one. Options and tables stand above."""
