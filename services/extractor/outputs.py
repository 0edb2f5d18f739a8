"""
Output parser: finds the model ref that the output of a succeeded training names. Pure.

    output ──PLACES──▶ texts ──SPELLINGS──▶ answers ──▶ one model ref, or `NoModel` with the reason

Replicate does not document the shape of a training's output, so the observed shapes are listed here: `PLACES` are the
places in an output that may name a model, `spellings.SPELLINGS` the ways in which a text may name it. To add one, write
a function, add it to its tuple, and add a sample to ``tests/fixtures/outputs``.

All answers together must name one version of one model: the destination, if that is known. Answers may complete or
repeat each other; if they contradict each other, none is used. Text without a version (a label, the URL of a file)
contradicts nothing; unreadable text that contains another version does. Case is folded and outer white space stripped;
nothing else is repaired, and no URL is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Final, TypeVar

from pydantic import JsonValue

from services.extractor.agreement import Answer, agreed_model, agreed_version, is_same, refuse_trainer
from services.extractor.errors import BY_HAND, NeedsDestination, NeedsLookup, NoModel, NoOutput
from services.extractor.shape import decoded_json, elements, shape_with_json
from services.extractor.spellings import is_file, read, versions_in
from shared.contract.identity import ModelName, ModelRef


@dataclass(frozen=True, slots=True)
class Found:
    """A model ref, and the shape of output that named it."""

    model: ModelRef
    shape: str
    #: True if the version was found in Replicate's list alone: the output names not even a prefix of it.
    looked_up: bool = False
    #: When Replicate registered the version, if that time identified it.
    made_at: datetime | None = None
    #: Ids of other trainings that may have made it, by Replicate's data.
    rivals: tuple[str, ...] = ()


def find_model(
    output: JsonValue, *, destination: ModelName | None, trainer: str | None, trainer_version: str | None
) -> Found:
    """
    Return the model ref that *output* names.

    *trainer* and *trainer_version* are the training's ``model`` and ``version`` at Replicate: never the result.

    Raises:
        NeedsDestination: if it names a version, but no model.
        NeedsLookup: if it names a model, but no complete version; `look_up` may complete it.
        NoModel: if it names none, several, or one that cannot be this training's. The text begins with the output's
            shape, by which dead letters are grouped.

    """
    try:
        return _find(output, destination, trainer, trainer_version)
    except NoModel as error:
        error.args = (f"{shape_with_json(output)}: {error}",)
        raise


def _find(output: JsonValue, destination: ModelName | None, trainer: str | None, trainer_version: str | None) -> Found:
    parts = _parts(output)
    texts = _texts(parts)
    readings = [(value, read(place, value)) for place, value in texts if _may_answer(value)]
    answers = [reading for _, reading in readings if isinstance(reading, Answer)]
    unreadable = [(value, reading) for value, reading in readings if isinstance(reading, NoModel)]
    whole = {answer.version for answer in answers if len(answer.version or "") == _WHOLE}
    for value, error in unreadable:
        if not whole or not whole.issuperset(versions_in(value)):
            raise error
    if output is None and destination is not None and not is_same(destination, trainer):
        raise NoOutput(destination)
    if not answers:
        raise _why_none([*parts, *(value for _, value in texts)], destination, trainer)

    model = agreed_model(answers, destination)
    version = agreed_version(answers)
    refuse_trainer(model, version, destination, trainer, trainer_version)
    if model is None:
        raise NeedsDestination(
            f"the output names version {version} without its model, and no destination is known. "
            "Register the training with its destination, then replay"
        )
    if version is None:
        raise NeedsLookup(
            f"the output names {model}, but none of its versions", code="version_not_pinned", model=model, prefix=None
        )
    ref = model.at(version)
    if ref is None:
        raise NeedsLookup(
            f"the output names only the beginning {version!r} of a version of {model}",
            code="short_version",
            model=model,
            prefix=version,
        )
    return Found(ref, next(answer.shape for answer in answers if answer.version == version))


# Places in an output that may name a model or version.


def plain_text(part: JsonValue) -> Iterable[JsonValue]:
    """``"owner/name:version"``"""
    return [part] if isinstance(part, str) else []


def version_field(part: JsonValue) -> Iterable[JsonValue]:
    """``{"version": "owner/name:version"}``, or the field's other names"""
    return [value for value in _version_fields(part) if not isinstance(value, dict)]


def version_object(part: JsonValue) -> Iterable[JsonValue]:
    """``{"version": {"id": "version"}}``, which may name the model too"""
    for value in _version_fields(part):
        if isinstance(value, dict):
            yield value.get("id")
            yield from chain(model_field(value), model_object(value), owner_and_name(value))


def model_field(part: JsonValue) -> Iterable[JsonValue]:
    """``{"model": "owner/name:version"}``, or only the name, next to a version"""
    return [value for value in _members(part, "model") if isinstance(value, str)]


def model_object(part: JsonValue) -> Iterable[JsonValue]:
    """``{"model": {"owner": "owner", "name": "name"}}``; not its ``latest_version``, which may be another training's"""
    return chain.from_iterable(map(owner_and_name, _members(part, "model")))


def owner_and_name(part: JsonValue) -> Iterable[JsonValue]:
    """``{"owner": "owner", "name": "name", "version": "version"}``"""
    match part:
        case {"owner": str(owner), "name": str(name)}:
            return [f"{owner}/{name}"]
    return []


Place = Callable[[JsonValue], Iterable[JsonValue]]
PLACES: Final[tuple[Place, ...]] = (
    version_field,
    version_object,
    model_field,
    model_object,
    owner_and_name,
    plain_text,
)


def _version_fields(part: JsonValue) -> Iterator[JsonValue]:
    return _members(part, "version", "version_id", "versionId", "model_version", "modelVersion")


def _members(part: JsonValue, *names: str) -> Iterator[JsonValue]:
    """Yield the values of these fields of *part*, and the elements of a value that is a list."""
    if isinstance(part, dict):
        for name in names:
            value = part.get(name)
            yield from value if isinstance(value, list) else [value]


#: Limit of parts and texts read from one output, to bound the time it takes.
_MOST_TEXTS: Final = 2000
_WHOLE: Final = 64
_EMPTY: Final[tuple[JsonValue, ...]] = (None, "", {}, [])


# From the output to its texts, and from their answers to one.

_Item = TypeVar("_Item")


def _parts(output: JsonValue) -> list[JsonValue]:
    """Return the output itself, or its elements; JSON inside a string is decoded, one level deep."""
    return _limited(part for element in elements(output) for part in decoded_json(element))


def _texts(parts: Sequence[JsonValue]) -> list[tuple[str, JsonValue]]:
    """Return the values in all places of all *parts*, with the place's name."""
    return _limited((place.__name__, value) for part in parts for place in PLACES for value in place(part))


def _limited(items: Iterable[_Item]) -> list[_Item]:
    found = list(islice(items, _MOST_TEXTS + 1))
    if len(found) > _MOST_TEXTS:
        raise NoModel(f"the output holds more than {_MOST_TEXTS} values to read. {BY_HAND}", code="too_long")
    return found


def _may_answer(value: JsonValue) -> bool:
    """Return whether *value* may name a model: not empty, and not the URL of a file."""
    return bool(value.strip()) and not is_file(value) if isinstance(value, str) else value is not None


def _why_none(values: Sequence[JsonValue], destination: ModelName | None, trainer: str | None) -> NoModel:
    if is_same(destination, trainer):
        return NoModel(f"this is a run of {destination}, not a training of it", code="not_a_training")
    if any(is_file(value) or (isinstance(value, dict) and value.get("weights")) for value in values):
        return NoModel(f"the output names weights, but no version. {BY_HAND}", code="weights_only")
    deleted = "; Replicate may have deleted it" if all(value in _EMPTY for value in values) else ""
    return NoModel(f"the output names no version{deleted}. {BY_HAND}", code="no_version")
