"""Missed webhooks: the share of trainings whose end no webhook of Replicate's reported, by the hour. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup
from pydantic import BaseModel

from services.ops.console.views import charts
from services.ops.console.views.formats import NOTHING, number, percent
from shared.contract.text import plural


class WebhookStatistics(BaseModel):
    """Trainings that ended, and those whose end no webhook reported."""

    ended: int
    missed: int
    missed_share: float | None


class HourWebhooks(WebhookStatistics):
    """Ends of trainings in the hour from then on."""

    hour: datetime


class WebhooksAnswer(BaseModel):
    """Ends of trainings in the last hours, the oldest first."""

    total: WebhookStatistics
    items: Sequence[HourWebhooks]

    @property
    def share(self) -> str:
        return NOTHING if self.total.missed_share is None else percent(self.total.missed_share)

    @property
    def sentence(self) -> str:
        period = f"In {plural(len(self.items), 'hour')}"
        if not self.total.ended:
            return f"{period}, no training ended."
        ended = plural(self.total.ended, "training")
        return f"{period}, {number(self.total.missed)} of {ended} ended without a webhook."

    @property
    def chart(self) -> Markup | None:
        """Missed webhooks per hour; None if there are none."""
        if not self.total.missed:
            return None
        points = [
            charts.Point(each.missed, f"{number(each.missed)} of {number(each.ended)} missed", each.hour)
            for each in self.items
        ]
        return charts.bars(points, sentence=f"Missed webhooks per hour: {self.sentence}", kind="warn")
