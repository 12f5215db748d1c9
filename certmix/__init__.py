"""certmix: certificates for mixed classifiers."""
