"""What is written down: certificate lines, outcomes, kept bounds, smoothing logs. Nothing is judged here."""
