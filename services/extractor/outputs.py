"""
Output parser: finds the model ref that the output of a succeeded training names. Pure.

    output ──PLACES──▶ texts ──SPELLINGS──▶ answers ──▶ one model ref, or `NoModel` with the reason

Replicate does not document the shape of a training's output, so the observed shapes are listed here: `PLACES` are the
places in an output that may name a model, `SPELLINGS` the ways in which a text may name it. To add one, write a
function, add it to its tuple, and add a sample to ``tests/fixtures/outputs``.

All answers together must name one version of one model: the destination, if that is known. Answers may complete or
repeat each other; if they contradict each other, none is used. Text without a version (a label, the URL of a file)
contradicts nothing; unreadable text that contains another version does. Case is folded and outer white space stripped;
nothing else is repaired, and no URL is ever fetched.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Final, TypeVar

from pydantic import JsonValue

from services.extractor.shape import shape_of
from shared.contract.errors import PermanentError
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.version import REGISTERED_WITHIN, Version


class NoModel(PermanentError):
    """The output names no acceptable model ref. The error code tells why."""

    code = "no_model"


class NeedsDestination(NoModel):
    """The output names a version without its model, and the training's destination is not known here."""


class NeedsLookup(NoModel):
    """The output names a model, but at most a prefix of its version. Replicate's list may complete it."""

    #: Advice for the operator if the list does not help.
    advice = "Look at the training at Replicate before replaying"

    def __init__(self, message: str, *, code: str, model: ModelName, prefix: str | None) -> None:
        super().__init__(message, code=code)
        self.model = model
        #: Prefix of the version; None if the output names none.
        self.prefix = prefix


class NoOutput(NeedsLookup):
    """There is no output: Replicate may have deleted it. The version may still be in its list of versions."""

    advice = (
        "Look at the versions of the destination at Replicate. If you know which one this training made, name it in "
        "the letter's output (modelswap dead-letters edit), then replay"
    )


class NotListed(NoModel):
    """None of the listed versions fits. The list may lag behind the trainings."""

    code = "version_not_listed"


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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one text names; model or version may be missing, and the version may be a prefix."""

    model: ModelName | None
    version: str | None
    shape: str


def find_model(
    output: JsonValue, *, destination: ModelName | None, trainer: str | None, trainer_version: str | None
) -> Found:
    """
    Return the model ref that *output* names.

    *trainer* and *trainer_version* are the training's ``model`` and ``version`` at Replicate: never the result.

    Raises:
        NeedsDestination: if it names a version, but no model.
        NeedsLookup: if it names a model, but no complete version; `resolve` may complete it.
        NoModel: if it names none, several, or one that cannot be this training's. The text begins with the output's
            shape, by which dead letters are grouped.

    """
    try:
        return _find(output, destination, trainer, trainer_version)
    except NoModel as error:
        error.args = (f"{_shape(output)}: {error}",)
        raise


def _find(output: JsonValue, destination: ModelName | None, trainer: str | None, trainer_version: str | None) -> Found:
    parts = _parts(output)
    texts = _texts(parts)
    readings = [(value, _read(place, value)) for place, value in texts if _may_answer(value)]
    answers = [reading for _, reading in readings if isinstance(reading, _Answer)]
    unreadable = [(value, reading) for value, reading in readings if isinstance(reading, NoModel)]
    whole = {answer.version for answer in answers if len(answer.version or "") == _WHOLE}
    for value, error in unreadable:
        if not whole or not whole.issuperset(_versions_in(value)):
            raise error
    if output is None and destination is not None and not _is_same(destination, trainer):
        raise _no_output(destination)
    if not answers:
        raise _nothing_said([*parts, *(value for _, value in texts)], destination, trainer)

    model = _agreed_model(answers, destination)
    version = _agreed_version(answers)
    _refuse_trainer(model, version, destination, trainer, trainer_version)
    if model is None:
        raise NeedsDestination(
            f"the output names version {version}, but not of which model, and no destination is known. "
            "Register the training with its destination, then replay"
        )
    if version is None:
        raise NeedsLookup(
            f"the output names {model}, but none of its versions",
            code="version_not_pinned",
            model=model,
            prefix=None,
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


def resolve(
    lookup: NeedsLookup,
    versions: Sequence[Version],
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
        raise NoModel(f"{lookup}; the dates that would tell are missing. {lookup.advice}", code=lookup.code)
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


def _fits(version: Version, prefix: str | None, started_at: datetime | None, completed_at: datetime | None) -> bool:
    is_older = version.created_at and started_at and version.created_at < started_at
    is_younger = version.created_at and completed_at and version.created_at > completed_at + REGISTERED_WITHIN
    return version.id.startswith(prefix or "") and not is_older and not is_younger


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


# Spellings of a model and its version, in lower-case text.

_MODEL: Final = r"(?P<model>[^/:@?#]+/[^/:@?#]+)"
# Replicate's pages show the first eight digits.
_VERSION: Final = r"(?P<version>[0-9a-f]{8,64})"
_WEB: Final = r"(?:https?://)?"
_PORT: Final = r"(?::443|:80)?"
# One more path segment (a page's tab, an API method), query and fragment.
_REST: Final = r"(?:/[a-z-]+)?/?(?:[?#].*)?"

_MODEL_REF: Final = re.compile(rf"{_MODEL}(?::{_VERSION})?")
_BARE_VERSION: Final = re.compile(rf"(?:sha256:)?{_VERSION}")
_PAGE: Final = re.compile(rf"{_WEB}(?:www\.)?replicate\.com{_PORT}/{_MODEL}(?:(?::|/versions/){_VERSION})?{_REST}")
_API: Final = re.compile(rf"{_WEB}api\.replicate\.com{_PORT}/v1/models/{_MODEL}(?:/versions/{_VERSION})?{_REST}")
_IMAGE: Final = re.compile(rf"(?:{_WEB}r8\.im/)?{_MODEL}(?::|@sha256:){_VERSION}")

_HOSTS: Final = re.compile(rf"(?:(?:www\.|api\.)?replicate\.com{_PORT}|r8\.im)")
_ANY_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#]*).*", re.IGNORECASE)
_FILE_URL: Final = re.compile(r"https?://(?:[a-z0-9-]+\.)*replicate\.delivery/.*", re.IGNORECASE)


def model_ref(text: str) -> re.Match[str] | None:
    """``owner/name:version`` or ``owner/name``"""
    return _MODEL_REF.fullmatch(text)


def bare_version(text: str) -> re.Match[str] | None:
    """``version`` or ``sha256:version``"""
    return _BARE_VERSION.fullmatch(text)


def page_url(text: str) -> re.Match[str] | None:
    """``https://replicate.com/owner/name/versions/version`` or ``…/owner/name:version``"""
    return _PAGE.fullmatch(text)


def api_url(text: str) -> re.Match[str] | None:
    """``https://api.replicate.com/v1/models/owner/name/versions/version``"""
    return _API.fullmatch(text)


def image(text: str) -> re.Match[str] | None:
    """``r8.im/owner/name@sha256:version``"""
    return _IMAGE.fullmatch(text)


Spelling = Callable[[str], re.Match[str] | None]
SPELLINGS: Final[tuple[Spelling, ...]] = (model_ref, bare_version, page_url, api_url, image)

_LONGEST_TEXT: Final = 2048
#: Limit of parts and texts read from one output, to bound the time it takes.
_MOST_TEXTS: Final = 2000
_WHOLE: Final = 64
_SEEN: Final = 80
_SHORT: Final = re.compile(r"[0-9a-f]{8,64}")
# The lookbehind keeps the search linear: each run of hexadecimal digits is matched once.
_LONG: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64,}", re.IGNORECASE)
_EMPTY: Final[tuple[JsonValue, ...]] = (None, "", {}, [])
_BY_HAND: Final = "Look at the training at Replicate before replaying"


def _read(place: str, value: JsonValue) -> _Answer | NoModel:
    """Return what *value* names, or the reason why it names nothing."""
    if not isinstance(value, str):
        return NoModel(f"{place}: {_seen(value)} is not text. {_BY_HAND}", code="bad_version_format")
    text = value.strip()
    # Checked before case is folded: folding turns some look-alikes into ASCII letters.
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_TEXT:
        for spelling in SPELLINGS:
            match = spelling(text.lower())
            if match:
                return _answer(match.groupdict(), f"{place}/{spelling.__name__}") or _unreadable(place, text)
    return _unreadable(place, text)


def _answer(said: dict[str, str | None], shape: str) -> _Answer | None:
    name = said.get("model")
    model = ModelName.parse(name) if name else None
    if name and model is None:
        return None
    return _Answer(model, said.get("version"), shape)


def _unreadable(place: str, text: str) -> NoModel:
    url = _ANY_URL.fullmatch(text)
    if url and not _HOSTS.fullmatch(url[1].lower()):
        return NoModel(
            f"{place}: {_seen(text)} is no address of Replicate's. {_BY_HAND}",
            code="unsupported_host",
        )
    return NoModel(f"{place}: {_seen(text)} names no version. {_BY_HAND}", code="bad_version_format")


def _versions_in(value: JsonValue) -> set[str]:
    return {version.lower() for version in _LONG.findall(value)} if isinstance(value, str) else set()


def _seen(value: JsonValue) -> str:
    """Format *value* for an error's message: short, with invisible characters escaped."""
    if isinstance(value, str):
        return ascii(value[:_SEEN]) + ("…" if len(value) > _SEEN else "")
    return f"a value of type {type(value).__name__}"


# From the output to its texts, and from their answers to one.

_Thing = TypeVar("_Thing")


def _parts(output: JsonValue) -> list[JsonValue]:
    """Return the output itself, or its elements; JSON inside a string is decoded, one level deep."""
    return _few(part for element in _elements(output) for part in _decoded(element))


def _texts(parts: Sequence[JsonValue]) -> list[tuple[str, JsonValue]]:
    """Return the values in all places of all *parts*, with the place's name."""
    return _few((place.__name__, value) for part in parts for place in PLACES for value in place(part))


def _few(things: Iterable[_Thing]) -> list[_Thing]:
    few = list(islice(things, _MOST_TEXTS + 1))
    if len(few) > _MOST_TEXTS:
        raise NoModel(f"the output says more than {_MOST_TEXTS} things. {_BY_HAND}", code="too_long")
    return few


def _shape(output: JsonValue) -> str:
    decoded = _decoded(output)
    if decoded == [output]:
        return shape_of(output)
    return f"JSON in text, {shape_of(decoded[0] if len(decoded) == 1 else decoded)}"


def _elements(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [value]


def _decoded(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        with contextlib.suppress(ValueError, RecursionError):
            return _elements(json.loads(value, object_pairs_hook=_object))
    return [value]


def _object(members: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """Refuse duplicate names: JSON does not define which value counts."""
    names = dict(members)
    if len(names) != len(members):
        raise ValueError("a name that comes twice")
    return names


def _may_answer(value: JsonValue) -> bool:
    """Return whether *value* may name a model: not empty, and not the URL of a file."""
    return bool(value.strip()) and not _is_file(value) if isinstance(value, str) else value is not None


def _is_file(value: JsonValue) -> bool:
    return isinstance(value, str) and _FILE_URL.fullmatch(value.strip()[:_LONGEST_TEXT]) is not None


def _no_output(destination: ModelName) -> NoOutput:
    return NoOutput(
        f"there is no output, as where Replicate has removed it, so the versions of {destination} must tell",
        code="no_version",
        model=destination,
        prefix=None,
    )


def _nothing_said(values: Sequence[JsonValue], destination: ModelName | None, trainer: str | None) -> NoModel:
    if _is_same(destination, trainer):
        return NoModel(f"this is a run of {destination}, not a training of it", code="not_a_training")
    if any(_is_file(value) or (isinstance(value, dict) and value.get("weights")) for value in values):
        return NoModel(f"the output names weights, but no version. {_BY_HAND}", code="weights_only")
    deleted = "; Replicate may have deleted it" if all(value in _EMPTY for value in values) else ""
    return NoModel(f"the output names no version{deleted}. {_BY_HAND}", code="no_version")


def _agreed_model(answers: Sequence[_Answer], destination: ModelName | None) -> ModelName | None:
    models = sorted({answer.model for answer in answers if answer.model})
    strangers = [model for model in models if destination and model != destination]
    if strangers:
        raise NoModel(
            f"the output names {strangers[0]}, but the training's destination is {destination}. "
            "Find out whose training this is before replaying",
            code="destination_mismatch",
        )
    if len(models) > 1:
        raise NoModel(f"the output names several models: {_some(models)}. {_BY_HAND}", code="ambiguous")
    return destination or (models[0] if models else None)


def _agreed_version(answers: Sequence[_Answer]) -> str | None:
    versions = sorted({answer.version for answer in answers if answer.version}, key=len, reverse=True)
    if not all(versions[0].startswith(version) for version in versions):
        raise NoModel(f"the output names several versions: {_some(sorted(versions))}. {_BY_HAND}", code="ambiguous")
    return versions[0] if versions else None


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:2])) + (" …" if len(names) > 2 else "")  # noqa: PLR2004


def _refuse_trainer(
    model: ModelName | None,
    version: str | None,
    destination: ModelName | None,
    trainer: str | None,
    trainer_version: str | None,
) -> None:
    """Refuse an output that names the trainer itself, which must never become a user's model."""
    if (version and _is_same_version(version, trainer_version)) or (destination is None and _is_same(model, trainer)):
        raise NoModel(
            f"the output names the trainer itself ({_seen(trainer or trainer_version)}), not what it made. {_BY_HAND}",
            code="trainer_version",
        )


def _is_same_version(version: str, name: str | None) -> bool:
    """Return whether both name the same version; either may be a prefix, *name* also a whole model ref."""
    known = (name or "").strip().lower().rpartition(":")[2]
    return known.startswith(version) or (_SHORT.fullmatch(known) is not None and version.startswith(known))


def _is_same(model: ModelName | None, name: str | None) -> bool:
    return model is not None and name is not None and str(model) == name.strip().lower()
