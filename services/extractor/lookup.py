"""
Looks up the version of a training whose output does not name it, in Replicate's lists. Never guesses.

A version can be the training's if Replicate registered it while the training ran or soon after its end. It is used if
it is the only such version, and no other training of the account made it. Of another training that ended then:

    its output names the version    that training made it: `NoModel`
    its output leaves it open       it is reported as a rival; state knows the destinations of registered trainings
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from services.extractor.errors import NeedsLookup, NoModel, NoOutput, NotListed, NotThereYet
from services.extractor.outputs import Found, find_model
from shared.contract.events import TrainingSucceeded
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.answers import TrainingsPage
from shared.replicate.errors import NotThere
from shared.replicate.training import Training, TrainingStatus
from shared.replicate.version import REGISTERED_WITHIN, ListedVersion

#: A version is listed at the latest this long after its training's end. Later, a missing version is a permanent error.
_LISTED_WITHIN: Final = timedelta(minutes=15)
#: Upper bound for the duration of a training.
_LONGEST_TRAINING: Final = timedelta(days=1)
#: Pages of the account's trainings that are read: a thousand trainings.
_MAX_PAGES: Final = 10
_MAX_RIVALS: Final = 100


class Lists(Protocol):
    """The calls to Replicate's API."""

    async def list_versions(self, model: ModelName) -> Sequence[ListedVersion]: ...

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage: ...


async def look_up(lookup: NeedsLookup, training: TrainingSucceeded, replicate: Lists, *, now: datetime) -> Found:
    """
    Return the version that *training* made.

    Raises:
        NotThereYet: if it may be listed later.
        NoModel: if no version fits, several fit, another training made it, or too many other trainings may have.

    """
    try:
        versions = await replicate.list_versions(lookup.model)
        ref = resolve(lookup, versions, training.started_at, training.completed_at)
    except (NotThere, NotListed) as error:
        if isinstance(lookup, NoOutput) and training.completed_at and now > training.completed_at + _LISTED_WITHIN:
            raise NoModel(f"{error}. {lookup.advice}", code=lookup.code) from error
        raise NotThereYet(str(error)) from error
    shape = f"lookup/{lookup.code}"
    made_at = next(version.created_at for version in versions if version.id == ref.version)
    if lookup.prefix is not None or training.started_at is None or made_at is None:
        return Found(ref, shape, looked_up=lookup.prefix is None)
    since = training.started_at - _LONGEST_TRAINING
    rivals = [
        each
        async for each in _trainings_since(since, lookup, replicate)
        if each.id != training.training_id and _may_have_made(each, ref, made_at)
    ]
    if makers := [other.id for other in rivals if _names(other, ref)]:
        raise NoModel(f"{ref} was made by training {makers[0]}. {lookup.advice}", code="model_of_another_training")
    if len(rivals) > _MAX_RIVALS:
        raise NoModel(f"{len(rivals)} other trainings can have made {ref}. {lookup.advice}", code="ambiguous")
    return Found(ref, shape, looked_up=True, made_at=made_at, rivals=tuple(other.id for other in rivals))


async def _trainings_since(moment: datetime, lookup: NeedsLookup, replicate: Lists) -> AsyncIterator[Training]:
    """Yield the account's trainings, newest first, with one page in memory."""
    cursor = None
    for _ in range(_MAX_PAGES):
        page = await replicate.list_trainings(cursor)
        for training in page.trainings:
            yield training
        cursor = page.next_cursor
        created = [each.created_at for each in page.trainings if each.created_at]
        if cursor is None or (created and min(created) < moment):
            return
    raise NoModel(f"{lookup}; too many trainings ran since then. {lookup.advice}", code="ambiguous")


def _may_have_made(other: Training, ref: ModelRef, made_at: datetime) -> bool:
    """Return whether *other* may have made *ref*, by its times and its output. A missing time does not exclude it."""
    if other.status != TrainingStatus.SUCCEEDED:
        return False
    if _names(other, ref):
        return True
    is_later = other.created_at is not None and other.created_at > made_at
    is_earlier = other.completed_at is not None and other.completed_at + REGISTERED_WITHIN < made_at
    return not is_later and not is_earlier and _leaves_open(other, ref)


def _names(other: Training, ref: ModelRef) -> bool:
    try:
        return _found(other, ref).model == ref
    except NoModel:
        return False


def _leaves_open(other: Training, ref: ModelRef) -> bool:
    try:
        _found(other, ref)
    except NeedsLookup as lookup:
        return ref.version.startswith(lookup.prefix or "")
    except NoModel as error:
        return error.code != "destination_mismatch"
    return False


def _found(other: Training, ref: ModelRef) -> Found:
    return find_model(other.output, destination=ref.model, trainer=None, trainer_version=other.trainer_version)


def resolve(
    lookup: NeedsLookup,
    versions: Sequence[ListedVersion],
    started_at: datetime | None,
    completed_at: datetime | None = None,
) -> ModelRef:
    """
    Return the only one of *versions* that a training between *started_at* and *completed_at* can have made.

    The newest version is not good enough: if several trainings share a destination, it may be another user's.

    Raises:
        NotListed: if none fits.
        NoModel: if several fit, or the dates needed to decide are missing.

    """
    if lookup.prefix is None and (started_at is None or any(version.created_at is None for version in versions)):
        raise NoModel(f"{lookup}; the dates needed to decide are missing. {lookup.advice}", code=lookup.code)
    fitting = (
        lookup.model.at(version.id) for version in versions if _fits(version, lookup.prefix, started_at, completed_at)
    )
    match sorted({ref for ref in fitting if ref}):
        case [ref]:
            return ref
        case []:
            raise NotListed(f"{lookup}; none of its {len(versions)} versions fits")
        case several:
            raise NoModel(f"{lookup}; {len(several)} of its versions fit. {lookup.advice}", code="ambiguous")


def _fits(
    version: ListedVersion, prefix: str | None, started_at: datetime | None, completed_at: datetime | None
) -> bool:
    is_older = version.created_at and started_at and version.created_at < started_at
    is_younger = version.created_at and completed_at and version.created_at > completed_at + REGISTERED_WITHIN
    return version.id.startswith(prefix or "") and not is_older and not is_younger
