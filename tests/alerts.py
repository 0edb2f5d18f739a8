"""Which alerts must fire on which broken stack, for `tests/end_to_end/test_alerts.py` and the runbook."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from tests import breakages
from tests.breakages import Case


class Alerts(NamedTuple):
    """Those that must fire, and those that may: whether they do depends on what was under way."""

    must: AbstractSet[str]
    may: AbstractSet[str] = frozenset()
    #: By this all times of the rules are divided: 10 minutes are 10 seconds.
    times_faster: int = 60


#: What waits for RabbitMQ or Postgres shows it in these as well, if it was under way.
_HELD_UP: Final = {
    "ModelswapEventsDelayed",
    "ModelswapEventsLogTrouble",
    "ModelswapLoopFails",
    "ModelswapProgressDropped",
    "ModelswapQueueBehind",
    "ModelswapWebhooksRefused",
}
#: They look back for hours, so they do not end with what they fire for.
LASTING: Final = {"ModelswapCompletionsLate", "ModelswapCompletionsLateForDays"}
#: What is broken → which alerts fire, and no others.
CASES: Final[dict[Case, Alerts]] = {
    # On a busy machine, a healthy stack may well take some seconds.
    breakages.nothing: Alerts(set(), times_faster=10),
    breakages.dead_process: Alerts({"ModelswapProcessGone"}, {"ModelswapNotMeasured"}),
    breakages.broker_down: Alerts({"ModelswapConsumerWaits"}, _HELD_UP),
    breakages.disk_full: Alerts({"ModelswapRabbitmqAlarm"}, {"ModelswapConsumerWaits", *_HELD_UP}),
    breakages.database_down: Alerts(
        {"ModelswapConsumerWaits", "ModelswapEventsDelayed", "ModelswapNotMeasured"},
        {"ModelswapLoopFails", "ModelswapQueueBehind"},
    ),
    breakages.replicate_5xx: Alerts(
        {"ModelswapConsumerWaits", "ModelswapReplicateFails"}, {"ModelswapLoopFails", "ModelswapQueueBehind", *LASTING}
    ),
    breakages.replicate_slow: Alerts(
        {"ModelswapQueueBehind"}, {"ModelswapConsumerWaits", "ModelswapLoopFails", "ModelswapReplicateFails", *LASTING}
    ),
    breakages.webhooks_dropped: Alerts({"ModelswapWebhooksDoNotArrive", *LASTING}),
    breakages.wrong_secret: Alerts({"ModelswapWebhooksRefused", "ModelswapWebhooksDoNotArrive", *LASTING}),
    breakages.parser_bug: Alerts({"ModelswapDeadLetters", *LASTING}),
    breakages.dead_letter_forgotten: Alerts({"ModelswapDeadLetters", "ModelswapDeadLettersOld"}),
    breakages.dead_letter_unstorable: Alerts({"ModelswapItemsSetAside"}),
    breakages.reconciler_without_a_right: Alerts({"ModelswapLoopFails"}),
    breakages.model_lost: Alerts({"ModelswapUserWithoutModel"}),
    breakages.progress_unroutable: Alerts({"ModelswapProgressDropped"}),
    breakages.event_too_large: Alerts({"ModelswapEventsSetAside"}),
    breakages.endpoint_gone: Alerts({"ModelswapDeadLetters", "ModelswapWebhookEndpointDisabled"}),
    breakages.subscribers_queue_full: Alerts(
        {"ModelswapEventsDelayed", "ModelswapQueueCanBlock"}, {"ModelswapLoopFails"}
    ),
    breakages.subscriber_away: Alerts({"ModelswapSubscriptionOverflows"}),
    breakages.webhook_too_large: Alerts({"ModelswapWebhooksLost"}),
    breakages.flood: Alerts({"ModelswapConnectionsRefused"}),
    # The last one: mending it is one more gap, which the notifier finds with the next event.
    breakages.events_log_made_anew: Alerts(
        {"ModelswapEventsLogTrouble", "ModelswapWebhooksMissed"}, {"ModelswapConsumerWaits", "ModelswapLoopFails"}
    ),
}


def described(broken: Case) -> str:
    """What is broken, in a sentence."""
    return (broken.__doc__ or "").rstrip(".")


def runbook_table() -> str:
    """What `deploy/runbook.md` says of the cases."""
    lines = ["| what is broken | alerts that fire | these as well, if something was under way |", "|---|---|---|"]
    for each, alerts in CASES.items():
        must, may = (", ".join(f"`{name}`" for name in sorted(names)) for names in (alerts.must, alerts.may))
        lines.append(f"| {described(each)} | {must or 'none'} | {may} |")
    return "\n".join(lines)
