"""Missed webhooks: the share of trainings whose end no webhook of Replicate's reported, by the hour. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from services.ops.console.answers import WebhooksAnswer
from services.ops.console.views import charts
from services.ops.console.views.formats import NOTHING, number, percent
from shared.contract.text import plural


@dataclass(frozen=True, slots=True)
class Missed:
    """The missed webhooks of the last day."""

    share: str
    sentence: str
    #: Missed webhooks per hour; None if there are none.
    chart: Markup | None


def missed(webhooks: WebhooksAnswer) -> Missed:
    total, hours = webhooks.total, webhooks.items
    period = f"In {plural(len(hours), 'hour')}"
    said = f"{period}, {number(total.missed)} of {plural(total.ended, 'training')} ended without a webhook."
    points = [
        charts.Point(each.missed, f"{number(each.missed)} of {number(each.ended)} missed", each.hour) for each in hours
    ]
    return Missed(
        share=NOTHING if total.missed_share is None else percent(total.missed_share),
        sentence=said if total.ended else f"{period}, no training ended.",
        chart=charts.bars(points, sentence=f"Missed webhooks per hour: {said}", kind="warn") if total.missed else None,
    )
