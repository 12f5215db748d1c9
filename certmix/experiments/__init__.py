"""The paper's experiments on any pair of models and data, one file each. Their options stand in commands."""
