"""Smoothing logs for scripts: the reader and the curves that `certmix certify-log` shows."""

from certmix.records.smoothing_log import Log, LogCurve, accuracy, curves, mix_radii, read_log

__all__ = ["Log", "LogCurve", "accuracy", "curves", "mix_radii", "read_log"]
