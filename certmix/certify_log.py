"""Smoothing logs for scripts: the reader and the curves that `certmix certify-log` shows."""

from certmix.records.smoothing_log import Curve, Log, accuracy, curves, mix_radii, read_log

__all__ = ["Curve", "Log", "accuracy", "curves", "mix_radii", "read_log"]
