"""What one certificate rests on: the judge is watched while he judges it, and what he went through is told."""
