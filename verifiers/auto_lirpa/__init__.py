"""auto_LiRPA as an engine: adapter, repair of the release on PyPI, upstream's Jacobian bounds."""
