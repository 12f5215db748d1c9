"""What this installation is, and whether the arithmetic of this machine is what the judge's error bounds assume."""
