"""How a failure to open a publisher's connection is reported, also if no message waits for it any more."""

from __future__ import annotations

import asyncio

import aiormq.exceptions
import pytest
from structlog.testing import capture_logs

from shared.runtime.broker import Publisher, Unconfirmed
from shared.runtime.broker.link import Link


async def refused(*_: object, **__: object) -> Link:
    raise aiormq.exceptions.AuthenticationError("ACCESS_REFUSED")


async def test_a_cancellation_by_the_library_is_a_lost_connection(monkeypatch):
    async def cancelled(*_: object, **__: object) -> Link:
        raise asyncio.CancelledError

    monkeypatch.setattr(Link, "open", cancelled)
    publisher = Publisher("amqp://127.0.0.1:1", name="test")

    with pytest.raises(Unconfirmed, match="lost"):
        await publisher.connect()


async def test_a_failure_that_nobody_waits_for_any_more_is_logged(monkeypatch):
    hanging, given_up = asyncio.Event(), asyncio.Event()

    async def refused_late(*_: object, **__: object) -> Link:
        hanging.set()
        await given_up.wait()
        return await refused()

    monkeypatch.setattr(Link, "open", refused_late)
    publisher = Publisher("amqp://127.0.0.1:1", name="test", timeout_seconds=0.01)
    with capture_logs() as logged:
        with pytest.raises(Unconfirmed):
            await publisher.connect()
        assert hanging.is_set()
        given_up.set()
        async with asyncio.timeout(60):
            while not logged:
                await asyncio.sleep(0)

    (line,) = logged
    assert (line["event"], line["connection"]) == ("publisher.not_opened", "test")
    assert "RabbitMQ refuses us" in line["detail"]


async def test_a_failure_that_a_message_reports_is_not_logged_too(monkeypatch):
    monkeypatch.setattr(Link, "open", refused)

    with capture_logs() as logged, pytest.raises(Unconfirmed, match="refuses us"):
        await Publisher("amqp://127.0.0.1:1", name="test").connect()

    assert logged == []
