"""The native engine: backward bounds by linear relaxation (CROWN), batched, with slopes tuned by gradient."""
