"""``POST /preview``: dry run of a message's handler, for operators' tools. Edge; nothing is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import ModelswapError
from shared.contract.events import Event
from shared.contract.preview import Answer, Message, Refusal
from shared.runtime.clock import now
from shared.runtime.http import Api, new_api
from shared.runtime.tokens import read_token

log = structlog.get_logger()


class Handler(Protocol):
    """Handles one delivery without costs."""

    async def handle(self, envelope: Envelope) -> Sequence[Event]: ...


def create_api(handler: Handler, *, api_tokens: Sequence[str]) -> Api:
    """Create the API. An error of *handler*, such as Replicate being down, is a regular answer of a preview."""

    async def preview(body: Message) -> Answer:
        """The events that would follow from an event's message, or how its delivery would fail."""
        try:
            envelope = body.decode()
            events = await handler.handle(envelope)
        except Exception as error:
            # A real delivery would fail on the same bug, so it is a valid answer.
            if not isinstance(error, ModelswapError):
                log.exception("preview.broken")
            return Answer(refusal=Refusal.of(error))
        follow = (wrap(event, source="extractor", now=now(), cause=envelope) for event in events)
        return Answer(messages=tuple(map(Message.of, follow)))

    api = new_api(
        title="modelswap's extractor",
        summary="See what would become of a message.",
        description="Each request needs a bearer token: one of `MODELSWAP_API_TOKENS`.",
        tags={"previews": "What a delivery of a message would come to, without any effect."},
        tokens=[read_token(entry) for entry in api_tokens],
        statuses={},
    )
    api.add_api_route("/preview", preview, methods=["POST"], tags=["previews"], response_model=Answer)
    return api
