"""Attacks on mixed classifiers: they may refute a claim, never prove one."""

from certmix.attacks.ball import Ball, make_ball
from certmix.attacks.confirm import Confirmed, Float32Only, confirm
from certmix.attacks.pgd import Candidates, Schedule, pgd
from certmix.attacks.quick import quick_attack

__all__ = [
    "Ball",
    "Candidates",
    "Confirmed",
    "Float32Only",
    "Schedule",
    "confirm",
    "make_ball",
    "pgd",
    "quick_attack",
]
