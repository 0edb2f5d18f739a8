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
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, TypeAlias, TypeVar

from services.simulator import prediction, training
from services.simulator.faults import FaultOrder
from services.simulator.job import Status
from services.simulator.knobs import Knobs
from services.simulator.models import NAME, OFFICIAL, OWNER, Deletion, Model, Version
from services.simulator.orders import Orders
from services.simulator.prediction import Prediction
from services.simulator.requests import JobRequest, TrainingRequest
from services.simulator.training import Training

_MODEL: Final = re.compile(rf"{OWNER}/{NAME}")
_VERSION: Final = re.compile(rf"(?:({OWNER}/{NAME}):)?([0-9a-f]{{64}})")
#: How long the deletion of a version takes, in simulated seconds. Replicate says "a few minutes".
_DELETION_SECONDS: Final = 120.0
_PREDICTION_SECONDS: Final = 7.0
_ID_LENGTH: Final = 26
JobT = TypeVar("JobT", Training, Prediction)
#: The state that is kept over a restart, one item per model, deletion, training and prediction.
Kept: TypeAlias = Model | Deletion | Training | Prediction


class World:
    """
    The whole simulated state. The time is passed in.

    *changed* is called with each new or changed item; `restore` brings the items back after a restart. New ids depend
    on the number of *restarts*, so that they differ from the restored ones.
    """

    def __init__(self, knobs: Knobs, *, restarts: int = 0, changed: Callable[[Kept], object] = lambda _: None) -> None:
        self._knobs = knobs
        self._seed = f"{knobs.seed}:{restarts}" if restarts else str(knobs.seed)
        self._changed = changed
        #: By name, oldest first.
        self._models = {OFFICIAL.name: OFFICIAL}
        self._trainings: dict[str, Training] = {}
        self._predictions: dict[str, Prediction] = {}
        #: The id of the training that makes a version, by version.
        self._makers: dict[str, str] = {}
        #: When a deleted model or version is gone, by name or id.
        self._gone_at: dict[str, datetime] = {}
        #: Number of trainings of each destination.
        self._trained: Counter[str] = Counter()
        #: Number of requests for each version.
        self._asked: Counter[str] = Counter()
        self.orders = Orders()

    # Models

    def create_model(self, model: Model) -> bool:
        """Add *model*; return False if there is one of that name."""
        if model.name in self._models:
            return False
        self._models[model.name] = model
        self._gone_at.pop(model.name, None)
        self._changed(model)
        return True

    def find_model(self, name: str) -> Model | None:
        return self._models.get(name)

    def public_models(self) -> list[Model]:
        """Newest first."""
        return [model for model in reversed(self._models.values()) if model.is_public]

    def delete_model(self, model: Model, *, now: datetime) -> bool:
        """Delete *model*; return False if it is public, has versions, or a training for it runs."""
        running = (each for each in self._trainings.values() if not each.has_ended(each.seconds(now)))
        is_used = self.versions(model.name, now=now) or any(each.destination == model.name for each in running)
        if model.is_public or is_used:
            return False
        del self._models[model.name]
        self._delete(model.name, now)
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
        """Delete *version* some time later; return False if its model is public or a training uses it."""
        model = self._models.get(version.model)
        if (model and model.is_public) or any(each.version == version.id for each in self._trainings.values()):
            return False
        if version.id not in self._gone_at:
            self._delete(version.id, now + timedelta(seconds=_DELETION_SECONDS / self._knobs.speed))
        return True

    def _delete(self, name: str, at: datetime) -> None:
        self._gone_at[name] = at
        self._changed(Deletion(name, at))

    def _is_gone(self, version_id: str, now: datetime) -> bool:
        gone_at = self._gone_at.get(version_id)
        return gone_at is not None and now >= gone_at

    def _made(self, maker: Training, now: datetime) -> Version | None:
        """Return the version that *maker* has made by *now*, unless it was deleted."""
        return None if self._is_gone(maker.makes, now) else maker.made(now)

    def find_version(self, reference: str, *, now: datetime) -> Version | None:
        """
        Find the version that *reference* names: ``owner/name:version``, ``version``, or an official ``owner/name``.

        Each call counts as a request, for versions that are there only after some requests.
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
        """Create a training; return None if the destination does not exist."""
        destination = request.destination
        if not self._accepts(destination):
            return None
        self._trained[destination] += 1
        number = self._trained[destination]
        training_id = self._id(f"training:{destination}:{number}")
        faults = self.orders.next_of_training(destination)
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
        self._set(created)
        return created

    def add_described(self, described: Training) -> None:
        """Add this training, replacing one with the same id, and its destination."""
        if described.destination:
            self.create_model(Model(described.destination))
        self._set(described)

    def find_training(self, training_id: str) -> Training | None:
        return self._trainings.get(training_id)

    def trainings(self) -> list[Training]:
        """Newest first."""
        return list(reversed(self._trainings.values()))

    def change_training(self, found: Training, order: FaultOrder, *, now: datetime) -> None:
        self._set(found.with_orders(order.faults, at=found.seconds(now)))

    def restore(self, kept: Iterable[Kept]) -> None:
        """Add the items that were kept before a restart, and the destinations of trainings that are not among them."""
        for each in kept:
            match each:
                case Model():
                    self._models[each.name] = each
                case Deletion():
                    self._gone_at[each.id] = each.at
                case _:
                    self._add(each)
        for name in (each.destination for each in self._trainings.values()):
            if name and name not in self._gone_at:
                self._models.setdefault(name, Model(name))

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
                run_seconds=_PREDICTION_SECONDS,
                deadline_seconds=deadline_seconds,
            ),
            behaviour=version.behaviour,
            webhook=request.webhook,
            events=request.webhook_events_filter,
        )
        self._set(created)
        return created

    def predictions(self, *, now: datetime) -> list[Prediction]:
        """Return all predictions, newest first, except those of a deleted version."""
        return [each for each in reversed(self._predictions.values()) if not self._is_gone(each.version, now)]

    def find_prediction(self, prediction_id: str, *, now: datetime) -> Prediction | None:
        found = self._predictions.get(prediction_id)
        return None if found is None or self._is_gone(found.version, now) else found

    def cancel(self, found: JobT, *, now: datetime) -> JobT:
        """Return the *found* job, canceled unless it has ended."""
        if found.has_ended(found.seconds(now)):
            return found
        canceled = found.cut(found.seconds(now), Status.CANCELED)
        self._set(canceled)
        return canceled

    def _set(self, changed: Training | Prediction) -> None:
        self._add(changed)
        self._changed(changed)

    def _add(self, job: Training | Prediction) -> None:
        if isinstance(job, Training):
            self._makers[job.makes] = job.id
            self._trainings[job.id] = job
        else:
            self._predictions[job.id] = job

    # Names

    def _id(self, what: str) -> str:
        """Return 26 characters of lower-case base 32, like Replicate's ids."""
        return base64.b32encode(self._digest(what)).decode().lower()[:_ID_LENGTH]

    def _digest(self, what: str) -> bytes:
        return hashlib.sha256(f"{self._seed}:{what}".encode()).digest()
