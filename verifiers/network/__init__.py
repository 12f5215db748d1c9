"""The plain network as a torch module, its lowering, intervals of its values. No engine."""
