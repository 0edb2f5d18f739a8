"""What `modelswap listen --forward-to` makes of what its target answers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest

from services.cli.events.forward import Forwarder
from services.cli.events.heard import Heard
from shared.contract.envelope import CONTENT_TYPE, wrap
from shared.contract.events import ModelActivated
from shared.replicate.signature import verify
from shared.runtime.broker import Delivery
from shared.runtime.clock import now

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NO_DELAYS = (0.0, 0.0)


class Target:
    """Answers each event with its *answers* in turn, and the last of them from then on."""

    def __init__(self, answers: Mapping[str, Sequence[int | None]] = {}) -> None:
        self._answers = answers
        self.posted: list[tuple[str, bytes, Mapping[str, str]]] = []
        self._times: dict[str, int] = defaultdict(int)

    async def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int | None, str]:
        name = headers["ce-id"]
        self.posted.append((name, body, headers))
        answers = self._answers.get(name, (204,))
        self._times[name] += 1
        status = answers[min(self._times[name], len(answers)) - 1]
        return status, "" if status == 204 else "its reason"

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.posted]


def heard(name: str, training_id: str = "t1") -> Heard:
    event = ModelActivated(
        training_id=training_id,
        user_id="ann",
        generation=1,
        ref="00000000-0000-0000-0000-000000000001",
        model=f"demo/ann:{'a' * 64}",
    )
    envelope = wrap(event, source="test", now=now())
    return Heard(
        Delivery(
            queue="",
            tag=1,
            exchange=event.exchange,
            routing_key=event.key,
            headers={**envelope.headers(), "ce-id": name},
            content_type=CONTENT_TYPE,
            body=envelope.body(),
        )
    )


async def passed_on(target: Target, *events: Heard, waiting_most: int = 100) -> list[str]:
    """The lines that were told."""
    lines: list[str] = []
    async with Forwarder(
        target.post, SECRET, lines.append, delays_seconds=NO_DELAYS, waiting_most=waiting_most
    ) as forwarder:
        for event in events:
            forwarder.add(event)
        while forwarder._tasks:
            await asyncio.wait(forwarder._tasks)
    return lines


async def test_what_is_passed_on_is_signed_as_standard_webhooks_are():
    target = Target({"1": (503, 204)})

    await passed_on(target, heard("1"))

    assert len(target.posted) == 2
    for _, body, headers in target.posted:
        assert headers["webhook-id"] == headers["ce-id"] == "1"
        verify(
            [SECRET],
            message_id=headers["webhook-id"],
            timestamp=headers["webhook-timestamp"],
            signatures=headers["webhook-signature"],
            body=body,
            now=now().timestamp(),
        )


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 503])
async def test_what_may_help_is_tried_again_and_each_attempt_is_a_line(status):
    lines = await passed_on(Target({"1": (status, status, 204)}), heard("1"))

    assert len(lines) == 3
    assert all(line.startswith(f"model.activated.v1 1, attempt {n} of 3: ") for n, line in enumerate(lines, start=1))
    assert [line.endswith("; again in 0 s") for line in lines] == [True, True, False]
    assert lines[-1].endswith("204, delivered")


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 410, 422])
async def test_what_can_not_help_is_reported_and_not_tried_again(status):
    target = Target({"1": (status,)})

    (line,) = await passed_on(target, heard("1"))

    assert f"{status} its reason" in line
    assert line.endswith("; not retried")
    assert target.names == ["1"]


async def test_a_target_that_stays_down_gets_the_next_event():
    target = Target({"1": (503,)})

    lines = await passed_on(target, heard("1"), heard("2"))

    assert target.names == ["1", "1", "1", "2"]
    assert lines[2].endswith("503 its reason; given up")


async def test_events_keep_their_order_per_training_only():
    target = Target({"1": (503, 503, 204)})

    await passed_on(target, heard("1"), heard("2"), heard("3"), heard("other", "t2"))

    assert [name for name in target.names if name != "other"] == ["1", "1", "1", "2", "3"]
    assert target.names.index("other") < target.names.index("2")


async def test_no_more_wait_than_there_is_room_for():
    target = Target()

    lines = await passed_on(target, heard("1"), heard("2"), heard("3"), waiting_most=2)

    assert target.names == ["1", "2"]
    assert lines[0] == "model.activated.v1 3: not forwarded, because 2 events wait already"


async def test_what_still_waits_at_the_end_is_said():
    lines: list[str] = []

    async with Forwarder(Target().post, SECRET, lines.append) as forwarder:
        forwarder.add(heard("1"))
        forwarder.add(heard("2"))

    assert lines == ["not forwarded: 2 waiting events"]
