"""The mixed classifiers themselves (Eq. 1 to 4, adaptive ones), as torch modules. No bounds, no claims."""
