"""Values to proven bounds, every rounding counted. No files, no claims."""
