"""Dashboards, alerts and rules ask for series that the processes of a running stack serve."""

from __future__ import annotations

import asyncio
import re
from typing import TypeAlias

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.dashboards import boards, expressions, rules, selectors
from tests.end_to_end.test_walk import start
from tests.stack import Stack, plain_client

#: A series: its name and its labels.
Series: TypeAlias = tuple[str, dict[str, str]]

ASKED = {name: expressions(board) for name, board in boards().items()} | {
    "rules": [str(rule["expr"]) for rule in rules()],
}
#: Served once there is a subscription.
LATER = "modelswap_subscription_overflowed"
#: Made by Prometheus itself, out of the rules, or by RabbitMQ (tests/integration/test_prometheus.py).
NOT_OURS = re.compile(
    rf"{LATER}|up|ALERTS|rabbitmq_.*|" + "|".join(rule["record"] for rule in rules() if "record" in rule)
)


async def served(stack: Stack) -> list[Series]:
    """What all processes say at /metrics."""
    async with plain_client() as client:
        answers = await asyncio.gather(*(client.get(f"{stack.url(name)}/metrics") for name in stack.ports))
    return [
        (sample.name, sample.labels)
        for answer in answers
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]


def selects(selector: promql_parser.VectorSelector, series: Series) -> bool:
    name, labels = series
    return selector.name == name and all(
        fits(matcher, labels.get(matcher.name, "")) for matcher in selector.matchers.matchers
    )


def fits(matcher: promql_parser.Matcher, value: str) -> bool:
    match matcher.op:
        case promql_parser.MatchOp.Equal:
            return matcher.value == value
        case promql_parser.MatchOp.NotEqual:
            return matcher.value != value
        case promql_parser.MatchOp.Re:
            return re.fullmatch(matcher.value, value) is not None
    return re.fullmatch(matcher.value, value) is None


@pytest.mark.parametrize("name", ASKED)
async def test_every_series_that_is_asked_for_is_served(stack: Stack, name: str) -> None:
    begun = await start(stack, f"metrics-{name}")
    await stack.until_stage(begun["training_id"], "active")
    asked = [
        selector
        for expression in ASKED[name]
        for selector in selectors(expression)
        if not NOT_OURS.fullmatch(selector.name or "")
    ]

    found = await served(stack)

    assert asked
    assert [each.prettify() for each in asked if not any(selects(each, series) for series in found)] == []
