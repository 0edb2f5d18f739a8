"""Faults by chance for the trainings and calls of a simulated Replicate. The same seed draws the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

from services.simulator.faults import API_FAULTS, ApiFault, Faults
from services.simulator.orders import Orders

NAMES = frozenset(Faults.model_fields) | frozenset(API_FAULTS)


class Chance(Orders):
    """Orders, and faults with these *chances*: the probability of each by its name. What is ordered counts more."""

    def __init__(self, chances: Mapping[str, float], seed: int = 0) -> None:
        super().__init__()
        assert chances.keys() <= NAMES, f"there are {', '.join(sorted(NAMES))}"
        self._chances = chances
        self._seed = seed
        self._dice = Random(f"{seed}:api")
        self._trained: Counter[str] = Counter()

    def clear(self) -> None:
        super().clear()
        self._chances = {}

    def next_of_call(self, route: str) -> ApiFault | None:
        if ordered := super().next_of_call(route):
            return ordered
        drawn = (fault for name, fault in API_FAULTS.items() if self._dice.random() < self._chances.get(name, 0))
        return next(drawn, None)

    def next_of_training(self, destination: str) -> Faults:
        self._trained[destination] += 1
        seed = f"{self._seed}:{destination}:{self._trained[destination]}"
        return draw(self._chances, seed).with_orders(super().next_of_training(destination))


def draw(chances: Mapping[str, float], seed: str) -> Faults:
    """Draw a training's faults with these probabilities; each fault has its own random generator from *seed*."""
    drawn = {}
    for name, field in Faults.model_fields.items():
        dice = Random(f"{seed}:{name}")
        if dice.random() < chances.get(name, 0):
            drawn[name] = dice.choice(field.examples or [field.default])
    return Faults.model_validate(drawn)
