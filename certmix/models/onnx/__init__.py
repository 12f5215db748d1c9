"""ONNX graphs to plain networks: reader and tables of operators. What has no exact plain form is refused."""
