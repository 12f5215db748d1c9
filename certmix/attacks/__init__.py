"""Attacks on mixed classifiers: they may refute a claim, never prove one."""

from certmix.attacks.ball import Ball, make_ball
from certmix.attacks.confirm import Confirmed, Float32Only, confirm
from certmix.attacks.pgd import Candidates, Schedule, pgd
from certmix.attacks.quick import quick_attack
from certmix.attacks.radius import AttackRadius, attack_radius
from certmix.attacks.worst import ATTACKS, Budget, worst

__all__ = [
    "ATTACKS",
    "AttackRadius",
    "Ball",
    "Budget",
    "Candidates",
    "Confirmed",
    "Float32Only",
    "Schedule",
    "attack_radius",
    "confirm",
    "make_ball",
    "pgd",
    "quick_attack",
    "worst",
]
