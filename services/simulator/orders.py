"""Fault orders: the faults that were ordered for coming trainings and API calls. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from services.simulator.faults import ApiFault, ApiFaultOrder, FaultOrder, Faults

_O = TypeVar("_O", FaultOrder, ApiFaultOrder)


class Orders:
    """The open fault orders."""

    def __init__(self) -> None:
        self._of_trainings: list[FaultOrder] = []
        self._of_calls: list[ApiFaultOrder] = []

    def add(self, order: FaultOrder) -> None:
        """Keep *order* until the trainings that it is for are created."""
        self._of_trainings.append(order)

    def add_for_calls(self, order: ApiFaultOrder) -> None:
        """Keep *order* until the calls that it is for are made."""
        self._of_calls.append(order)

    def clear(self) -> None:
        """Cancel all orders; faults of existing trainings stay."""
        self._of_trainings.clear()
        self._of_calls.clear()

    def next_of_call(self, route: str) -> ApiFault | None:
        for order in self._of_calls:
            if order.route in ("*", route):
                self._of_calls = _used_up(self._of_calls, [order])
                return order
        return None

    def next_of_training(self, destination: str) -> Faults:
        """Return the faults of a new training; later orders take precedence."""
        faults = Faults()
        orders = [order for order in self._of_trainings if order.destination in (None, destination)]
        for order in orders:
            faults = faults.with_orders(order.faults)
        self._of_trainings = _used_up(self._of_trainings, orders)
        return faults


def _used_up(orders: Sequence[_O], used: Sequence[_O]) -> list[_O]:
    """Return *orders* after one occasion on which *used* counted."""
    is_used = {id(order) for order in used}
    left = (order.model_copy(update={"next": order.next - 1}) if id(order) in is_used else order for order in orders)
    return [order for order in left if order.next]
