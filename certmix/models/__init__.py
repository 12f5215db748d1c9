"""Classifiers from files and torch to plain networks, and how faithful these are. No data, no bounds."""
