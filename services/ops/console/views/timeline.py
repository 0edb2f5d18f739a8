"""The timeline of a training as its page shows it: the facts of state, and its dead letters, in one order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

from pydantic import BaseModel, JsonValue

from services.ops.console.views.formats import duration, kind
from services.ops.console.views.queues import EventDeliveryAnswer
from services.ops.letters.views import LetterLine
from shared.contract.text import plural
from shared.contract.values import Retries

_EVENTS: Final = {
    "training.started": "started",
    "training.succeeded": "succeeded",
    "training.failed": "failed",
    "training.canceled": "canceled",
}
#: What a stage that a fact led to means, in words.
_BECAME: Final = {
    "active": "It became the user's current model.",
    "superseded": "A newer model was current already, so the user keeps that one.",
    "unverified": "The user's model is unchanged. The extraction can be retried.",
}


class FactAnswer(BaseModel):
    """A fact in a training's timeline."""

    kind: str
    at: datetime
    event: str | None = None
    event_id: str | None = None
    applied_at: datetime | None = None
    retries: Retries | None = None
    applied_retries: Retries | None = None
    stage: str | None = None
    replay: str | None = None
    detail: Mapping[str, JsonValue] = {}


class TimelineAnswer(BaseModel):
    """A training's timeline."""

    items: Sequence[FactAnswer]
    is_complete: bool


class Link(NamedTuple):
    """Where an entry leads."""

    path: str
    text: str


class Part(NamedTuple):
    """A detail of an entry; code is shown in a fixed-width font."""

    label: str
    value: str
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline."""

    at: datetime
    #: Of the mark: good, info, warn, bad or quiet.
    tone: str
    title: str
    text: str = ""
    parts: tuple[Part, ...] = ()
    links: tuple[Link, ...] = ()
    #: Seconds since the entry before; None for the first.
    after: float | None = None


#: Facts that need no more than a tone, a title and a text.
_PLAIN: Final = {
    "requested": ("quiet", "Requested", "It drew its generation; the user's current model stays in use."),
    "started": ("quiet", "Began at Replicate", "By Replicate's clock."),
    "completed": ("quiet", "Ended at Replicate", "By Replicate's clock."),
    "extraction_requested": ("info", "Extraction requested again", "Its model is looked for once more."),
}
#: Facts that are, or follow from, public events.
_PUBLIC: Final = ("published", "verified", "not_verified")
#: The most events whose deliveries a page shows.
_DELIVERED: Final = 6


def delivered(facts: Iterable[FactAnswer]) -> Sequence[str]:
    """Return the ids of the newest events that webhook endpoints may want."""
    return [fact.event_id for fact in facts if fact.event_id and fact.kind in _PUBLIC][-_DELIVERED:]


def entries(
    facts: Iterable[FactAnswer], letters: Iterable[LetterLine], deliveries: Iterable[EventDeliveryAnswer] = ()
) -> Sequence[Entry]:
    """Return the lines of a training's timeline, oldest first."""
    # The order of facts at the same time is state's; a dead letter comes after what it is about.
    found = [*map(_of_fact, facts), *map(_of_delivery, deliveries), *map(_of_letter, letters)]
    found.sort(key=lambda entry: entry.at)
    return [
        *found[:1],
        *(replace(later, after=(later.at - earlier.at).total_seconds()) for earlier, later in pairwise(found)),
    ]


def _of_fact(fact: FactAnswer) -> Entry:
    plain = _PLAIN.get(fact.kind)
    entry = Entry(fact.at, *plain) if plain else _KINDS.get(fact.kind, _other)(fact)
    links = list(entry.links)
    if fact.replay is not None:
        replay, _, number = fact.replay.partition(":")
        links += [Link(f"/replays/{replay}", "by a replay"), Link(f"/dead-letters/{number}", f"dead letter {number}")]
    return replace(entry, links=tuple(links))


def _reported(fact: FactAnswer) -> Entry:
    said = _EVENTS.get(_name(fact), _name(fact))
    tone = kind(said, "stage") if said in ("failed", "canceled") else "info"
    return Entry(fact.at, tone, f"Webhook: {said}", _text(fact, "reason"), _applied(fact))


def _recovered(fact: FactAnswer) -> Entry:
    entry = _reported(fact)
    why = "Replicate was asked, because the webhook never came."
    title = f"Asked Replicate: {_EVENTS.get(_name(fact), _name(fact))}"
    return replace(entry, tone="warn", title=title, text=f"{why} {entry.text}".strip())


def _verified(fact: FactAnswer) -> Entry:
    evidence = fact.detail.get("evidence")
    known: Mapping[str, JsonValue] = evidence if isinstance(evidence, Mapping) else {}
    parts = [Part("model", _text(fact, "model"), is_code=True)]
    if isinstance(checks := known.get("checks"), list):
        parts.append(Part("checks passed", ", ".join(map(str, checks))))
    if "shape" in known:
        parts.append(Part("found by", str(known["shape"]), is_code=True))
    if known.get("looked_up"):
        parts.append(Part("looked up", "in Replicate's list of versions: the output does not name it"))
    if isinstance(seconds := known.get("seconds"), int | float):
        parts.append(Part("took", duration(seconds)))
    title = "Model found and verified"
    if (retries := fact.retries) is not None:
        title += f" at attempt {retries.attempt}"
        since = duration((fact.at - retries.first_failed_at).total_seconds())
        parts.append(Part("retries", f"{since} since the first failure{_last_error(retries)}"))
    text = _BECAME.get(fact.stage or "", "It changed nothing: the training had its model already.")
    tone = "good" if fact.stage == "active" else "quiet"
    return Entry(fact.at, tone, title, text, (*parts, *_applied(fact)))


def _not_verified(fact: FactAnswer) -> Entry:
    return Entry(
        fact.at,
        "warn",
        f"No usable model: {_text(fact, 'error')}",
        _join(_text(fact, "detail"), _BECAME.get(fact.stage or "", "")),
        _applied(fact),
    )


def _swapped(fact: FactAnswer) -> Entry:
    cause = "By a replay." if _text(fact, "cause") == "replay" else ""
    return Entry(fact.at, "good", "Swapped in", _join(cause, _reason(fact)), _change(fact))


def _rolled_back(fact: FactAnswer) -> Entry:
    title = f"Rolled back to it by {_text(fact, 'actor')}"
    return Entry(fact.at, kind("rollback", "change"), title, _reason(fact), _change(fact))


def _withdrawn(fact: FactAnswer) -> Entry:
    title = f"Withdrawn by {_text(fact, 'actor')}"
    text = _join(_reason(fact), "The user has had no model since.")
    return Entry(fact.at, kind("withdrawal", "change"), title, text, _change(fact))


def _displaced(fact: FactAnswer) -> Entry:
    by = "by a rollback" if _text(fact, "cause") == "rollback" else "by another model"
    return Entry(fact.at, "quiet", f"Replaced {by}", parts=(Part("model", _text(fact, "by"), is_code=True),))


def _published(fact: FactAnswer) -> Entry:
    parts = (Part("event id", fact.event_id or "", is_code=True),)
    return Entry(fact.at, "good", f"Published: {_name(fact)}", "The broker confirmed it; subscribers get it.", parts)


def _unpublished(fact: FactAnswer) -> Entry:
    aside = _text(fact, "set_aside")
    why = f"It cannot be sent, and waits for a repair: {aside}" if aside else "It is committed, and sent soon."
    return Entry(fact.at, "bad" if aside else "warn", f"Not published yet: {_name(fact)}", why)


def _failed(fact: FactAnswer) -> Entry:
    stage = fact.stage or "failed"
    title = f"{stage.capitalize()}: {_text(fact, 'error')}"
    return Entry(fact.at, kind(stage, "stage"), title, _text(fact, "detail"))


def _other(fact: FactAnswer) -> Entry:
    # A newer state says more than this page knows.
    return Entry(fact.at, "quiet", fact.kind.replace("_", " ").capitalize(), fact.event or "")


_DELIVERIES: Final = {
    "delivered": "Delivered",
    "failed": "Not delivered, and given up",
    "retrying": "Not delivered yet, and tried again",
}


def _of_delivery(delivery: EventDeliveryAnswer) -> Entry:
    title = f"{_DELIVERIES.get(delivery.status, 'Waits to be delivered')}: {delivery.event.rpartition('.')[0]}"
    answer = "" if delivery.response_status is None else f"It answered {delivery.response_status}"
    parts = (Part("endpoint", delivery.url, is_code=True), Part("attempts", str(delivery.attempts)))
    said = _join(answer, (delivery.response or "")[:300] if delivery.status != "delivered" else "")
    return Entry(delivery.status_at, kind(delivery.status, "delivery"), title, said, parts)


def _of_letter(letter: LetterLine) -> Entry:
    return Entry(
        letter.last_failed_at,
        kind(letter.status, "letter"),
        f"Dead letter: {letter.error_code}",
        letter.error_text,
        (Part("queue", letter.queue, is_code=True), Part("given up after", plural(letter.attempts, "attempt"))),
        (Link(f"/dead-letters/{letter.number}", f"dead letter {letter.number}, {letter.status}"),),
    )


_KINDS: Final[Mapping[str, Callable[[FactAnswer], Entry]]] = {
    "reported": _reported,
    "recovered": _recovered,
    "verified": _verified,
    "not_verified": _not_verified,
    "swapped": _swapped,
    "rolled_back": _rolled_back,
    "withdrawn": _withdrawn,
    "displaced": _displaced,
    "published": _published,
    "unpublished": _unpublished,
    "failed": _failed,
}


def _name(fact: FactAnswer) -> str:
    """Return the event's name without its version."""
    return (fact.event or "").rpartition(".")[0] or fact.event or ""


def _text(fact: FactAnswer, name: str) -> str:
    value = fact.detail.get(name)
    return "" if value is None else str(value)


def _reason(fact: FactAnswer) -> str:
    reason = _text(fact, "reason")
    return f"“{reason}”" if reason else ""


def _change(fact: FactAnswer) -> tuple[Part, ...]:
    return (Part("generation", _text(fact, "generation")),)


def _applied(fact: FactAnswer) -> tuple[Part, ...]:
    """Return how long the event was on its way to the database, and with how many attempts, if worth a word."""
    if fact.applied_at is None:
        return ()
    later = (fact.applied_at - fact.at).total_seconds()
    if (retries := fact.applied_retries) is not None:
        said = f"{duration(later)} later, at attempt {retries.attempt}{_last_error(retries)}"
        return (Part("applied", said),)
    return () if later < 1 else (Part("applied", f"{duration(later)} later"),)


def _last_error(retries: Retries) -> str:
    return f"; attempt {retries.attempt - 1} failed with {retries.last_error}" if retries.last_error else ""


def _join(*sentences: str) -> str:
    return " ".join(each if each[-1] in ".!?…”" else f"{each}." for each in sentences if each)
