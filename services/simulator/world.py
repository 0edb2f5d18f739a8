"""
The simulated state: models, versions, trainings, predictions and fault orders. No I/O; the time is passed in.

A training's id is derived from the seed and the number of its destination's earlier trainings, so a run can be
repeated in any order of destinations.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from services.simulator import prediction, training
from services.simulator.faults import (
    ApiFault,
    ApiFaultOrder,
    FaultOrder,
    Faults,
    WebhookEvent,
    draw,
    draw_for_call,
)
from services.simulator.job import Status
from services.simulator.knobs import Knobs
from services.simulator.models import NAME, OWNER, Model, Version, official
from services.simulator.prediction import Prediction
from services.simulator.training import Training

_MODEL: Final = re.compile(rf"{OWNER}/{NAME}")
_VERSION: Final = re.compile(rf"(?:({OWNER}/{NAME}):)?([0-9a-f]{{64}})")
#: How long the deletion of a version takes, in simulated seconds. Replicate says "a few minutes".
_DELETION_SECONDS: Final = 120.0
_ID_LENGTH: Final = 26
#: The webhooks of a job whose owner named none.
_DEFAULT_EVENTS: Final = frozenset({WebhookEvent.OUTPUT, WebhookEvent.COMPLETED})

_O = TypeVar("_O", FaultOrder, ApiFaultOrder)


class JobRequest(BaseModel):
    """What a client asks for when it creates a training or a prediction (a job)."""

    model_config = ConfigDict(frozen=True)

    input: dict[str, Any]
    webhook: Annotated[str, Field(pattern=r"^(https?://.+)?$")] = ""
    webhook_events_filter: frozenset[WebhookEvent] = _DEFAULT_EVENTS


class TrainingRequest(JobRequest):
    """The same for a training."""

    destination: str = ""


class World:
    """
    Everything that this Replicate knows. The time is handed in.

    *keep* is called with each training and prediction that is new or changes. What `restore` brings back after a
    restart has ids of its own, so that of each of its *restarts* begins with others.
    """

    def __init__(
        self, knobs: Knobs, *, restarts: int = 0, keep: Callable[[Training | Prediction], object] = lambda _: None
    ) -> None:
        self._knobs = knobs
        self._seed = f"{knobs.seed}:{restarts}" if restarts else str(knobs.seed)
        self._keep = keep
        #: By name, oldest first.
        self._models = {name: official(name) for name in knobs.official_models}
        self._trainings: dict[str, Training] = {}
        self._predictions: dict[str, Prediction] = {}
        #: The id of the training that makes a version.
        self._makers: dict[str, str] = {}
        #: When the versions that were deleted are gone.
        self._gone_at: dict[str, datetime] = {}
        #: How many trainings each destination had.
        self._trained: Counter[str] = Counter()
        #: How often each version was asked for.
        self._asked: Counter[str] = Counter()
        self._orders: list[FaultOrder] = []
        self._api_orders: list[ApiFaultOrder] = []
        self._chances = knobs.chances
        self._dice = Random(f"{knobs.seed}:api")

    # Faults

    def order(self, order: FaultOrder) -> None:
        """Keep *order* until the trainings that it is for are created."""
        self._orders.append(order)

    def order_api_fault(self, order: ApiFaultOrder) -> None:
        """Keep *order* until the calls that it is for are made."""
        self._api_orders.append(order)

    def heal(self) -> None:
        """From now on, nothing goes wrong that was not begun."""
        self._orders.clear()
        self._api_orders.clear()
        self._chances = {}

    def next_api_fault(self, route: str) -> ApiFault | None:
        """What goes wrong with this call of *route*, if anything."""
        for order in self._api_orders:
            if order.route in ("*", route):
                self._api_orders = _used_up(self._api_orders, [order])
                return order
        return draw_for_call(self._chances, self._dice)

    def _next_faults(self, training_id: str, destination: str) -> Faults:
        """What goes wrong with a new training; what was ordered counts more than chance."""
        faults = draw(self._chances, f"{self._knobs.seed}:{training_id}")
        orders = [order for order in self._orders if order.destination in (None, destination)]
        for order in orders:
            faults = faults.with_orders(order.faults)
        self._orders = _used_up(self._orders, orders)
        return faults

    # Models

    def create_model(self, model: Model) -> bool:
        """False, if there is one of that name."""
        return self._models.setdefault(model.name, model) is model

    def find_model(self, name: str) -> Model | None:
        return self._models.get(name)

    def public_models(self) -> list[Model]:
        """Newest first."""
        return [model for model in reversed(self._models.values()) if model.is_public]

    def delete_model(self, model: Model, *, now: datetime) -> bool:
        """False, if it is public, has versions, or a training for it runs."""
        running = (each for each in self._trainings.values() if not each.has_ended(each.seconds(now)))
        is_used = self.versions(model.name, now=now) or any(each.destination == model.name for each in running)
        if model.is_public or is_used:
            return False
        del self._models[model.name]
        return True

    def run_count(self, model: Model) -> int:
        return sum(each.model == model.name for each in self._predictions.values())

    # Versions

    def versions(self, model: str, *, now: datetime) -> list[Version]:
        """Newest first."""
        makers = (maker for maker in self._trainings.values() if maker.makes_model == model)
        there = [version for maker in makers if (version := self._made(maker, now))]
        return sorted(there, key=lambda version: version.created_at, reverse=True)

    def latest_version(self, model: Model, *, now: datetime) -> Version | None:
        if model.is_official:
            return model.shown_version
        return next(iter(self.versions(model.name, now=now)), None)

    def delete_version(self, version: Version, *, now: datetime) -> bool:
        """False, if its model is public or a training uses it; else it is gone some time later."""
        model = self._models.get(version.model)
        if (model and model.is_public) or any(each.version == version.id for each in self._trainings.values()):
            return False
        self._gone_at.setdefault(version.id, now + timedelta(seconds=_DELETION_SECONDS / self._knobs.speed))
        return True

    def _is_gone(self, version_id: str, now: datetime) -> bool:
        gone_at = self._gone_at.get(version_id)
        return gone_at is not None and now >= gone_at

    def _made(self, maker: Training, now: datetime) -> Version | None:
        """The version that *maker* has made by *now*, unless it was deleted."""
        return None if self._is_gone(maker.makes, now) else _made(maker, now)

    def find_version(self, reference: str, *, now: datetime) -> Version | None:
        """
        What ``owner/name:version``, ``version``, or an official model's ``owner/name`` names.

        A version that comes late counts who asks for it.
        """
        model = self._models.get(reference)
        if model and model.is_official:
            return model.hidden_version
        match = _VERSION.fullmatch(reference)
        maker = self._trainings.get(self._makers.get(match[2], "")) if match else None
        version = self._made(maker, now) if maker else None
        if not (match and maker and version) or match[1] not in (None, version.model):
            return None
        self._asked[version.id] += 1
        return version if self._asked[version.id] > maker.faults.version_late_calls else None

    # Trainings

    def create_training(
        self, request: TrainingRequest, *, trainer: str, version: str, api_url: str, now: datetime
    ) -> Training | None:
        """None, if the destination does not exist."""
        destination = request.destination
        if not self._accepts(destination):
            return None
        self._trained[destination] += 1
        number = self._trained[destination]
        training_id = self._id(f"training:{destination}:{number}")
        faults = self._next_faults(training_id, destination)
        run_seconds = faults.duration_seconds or self._knobs.duration_seconds
        created = Training(
            id=training_id,
            model=trainer,
            version=version,
            input=request.input,
            created_at=now,
            speed=self._knobs.speed,
            api_url=api_url,
            life=training.planned_life(faults.outcome, boot_seconds=self._knobs.boot_seconds, run_seconds=run_seconds),
            destination=destination,
            makes=self._digest(f"version:{destination}:{number}").hex(),
            webhook=request.webhook,
            events=request.webhook_events_filter,
            run_seconds=run_seconds,
            faults=faults,
        )
        self._set_training(created)
        return created

    def know(self, told: Training) -> None:
        """From now on there is this training, in place of one with its id, and the model that it is for."""
        if told.destination:
            self.create_model(Model(told.destination))
        self._set_training(told)

    def find_training(self, training_id: str) -> Training | None:
        return self._trainings.get(training_id)

    def trainings(self) -> list[Training]:
        """Newest first."""
        return list(reversed(self._trainings.values()))

    def change_training(self, found: Training, order: FaultOrder, *, now: datetime) -> Training:
        """The *found* training with what was ordered for it."""
        changed = found.with_orders(order.faults, at=found.seconds(now))
        self._set_training(changed)
        return changed

    def cancel_training(self, found: Training, *, now: datetime) -> Training:
        """The *found* training, canceled unless it has ended."""
        canceled = found.cut(found.seconds(now), Status.CANCELED)
        self._set_training(canceled)
        return canceled

    def restore(self, trainings: Iterable[Training], predictions: Iterable[Prediction]) -> None:
        """Know again what was kept before a restart, and the models that trainings were for."""
        for each in trainings:
            self._makers[each.makes] = each.id
            self._trainings[each.id] = each
            self.create_model(Model(each.destination))
        self._predictions.update((each.id, each) for each in predictions)

    def _set_training(self, changed: Training) -> None:
        self._makers[changed.makes] = changed.id
        self._trainings[changed.id] = changed
        self._keep(changed)

    def _accepts(self, destination: str) -> bool:
        if self._knobs.auto_destinations and _MODEL.fullmatch(destination):
            self.create_model(Model(destination))
        return destination in self._models

    # Predictions

    def create_prediction(
        self,
        request: JobRequest,
        version: Version,
        *,
        deadline_seconds: float,
        api_url: str,
        now: datetime,
    ) -> Prediction:
        created = Prediction(
            id=self._id(f"prediction:{len(self._predictions)}"),
            model=version.model,
            version=version.id,
            input=request.input,
            created_at=now,
            speed=self._knobs.speed,
            api_url=api_url,
            life=prediction.planned_life(
                version.behaviour,
                boot_seconds=self._knobs.prediction_boot_seconds,
                run_seconds=self._knobs.prediction_duration_seconds,
                deadline_seconds=deadline_seconds,
            ),
            behaviour=version.behaviour,
            webhook=request.webhook,
            events=request.webhook_events_filter,
        )
        self._set_prediction(created)
        return created

    def predictions(self, *, now: datetime) -> list[Prediction]:
        """Newest first. Those of a deleted version are gone with it."""
        return [each for each in reversed(self._predictions.values()) if not self._is_gone(each.version, now)]

    def find_prediction(self, prediction_id: str, *, now: datetime) -> Prediction | None:
        found = self._predictions.get(prediction_id)
        return None if found is None or self._is_gone(found.version, now) else found

    def cancel_prediction(self, found: Prediction, *, now: datetime) -> Prediction:
        """The *found* prediction, canceled unless it has ended."""
        canceled = found.cut(found.seconds(now), Status.CANCELED)
        self._set_prediction(canceled)
        return canceled

    def _set_prediction(self, changed: Prediction) -> None:
        self._predictions[changed.id] = changed
        self._keep(changed)

    # Names

    def _id(self, what: str) -> str:
        """26 characters of lower-case base 32, as Replicate's."""
        return base64.b32encode(self._digest(what)).decode().lower()[:_ID_LENGTH]

    def _digest(self, what: str) -> bytes:
        return hashlib.sha256(f"{self._seed}:{what}".encode()).digest()


def _made(maker: Training, now: datetime) -> Version | None:
    """The version that *maker* has made by *now*."""
    there_at = maker.life.ends + maker.faults.version_late_seconds
    if not maker.makes or maker.life.outcome is not Status.SUCCEEDED or maker.seconds(now) < there_at:
        return None
    return Version(
        model=maker.makes_model,
        id=maker.makes,
        created_at=maker.date(there_at),
        has_prompt=not maker.faults.no_prompt,
        behaviour=maker.faults.prediction,
    )


def _used_up(orders: Sequence[_O], used: Sequence[_O]) -> list[_O]:
    """*orders* after one occasion on which *used* counted."""
    is_used = {id(order) for order in used}
    left = (order.model_copy(update={"next": order.next - 1}) if id(order) in is_used else order for order in orders)
    return [order for order in left if order.next]
