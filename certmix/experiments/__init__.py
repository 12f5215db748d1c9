"""The paper's experiments as commands, on any pair of models and data."""
