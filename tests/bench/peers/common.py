"""What the peers share, so that each one's file shows its library alone: the signature check, the receiver, the SQL."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from shared.replicate.signature import verify
from shared.runtime.settings import ReceiverSettings
from shared.runtime.settings_base import reveal


@dataclass(frozen=True, slots=True)
class Statements:
    """One peer's tables, and the two statements of its transaction."""

    schema: str
    #: Returns true the first time that training $1 is handled.
    handle: str
    #: Sets the user's model: training $1, model $2, version $3.
    set_model: str


def statements(peer: str) -> Statements:
    """Return the statements on the tables of *peer*, which are named after it."""
    return Statements(
        schema=f"""
            CREATE TABLE {peer}_trainings (training_id text PRIMARY KEY, user_id text NOT NULL);
            CREATE TABLE {peer}_handled (training_id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
            CREATE TABLE {peer}_models (
                user_id text PRIMARY KEY, training_id text NOT NULL, model text NOT NULL, version text NOT NULL,
                at timestamptz NOT NULL DEFAULT now())""",
        handle=f"INSERT INTO {peer}_handled (training_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING true",
        set_model=f"""
            INSERT INTO {peer}_models (user_id, training_id, model, version)
            SELECT user_id, training_id, $2, $3 FROM {peer}_trainings WHERE training_id = $1
            ON CONFLICT (user_id) DO UPDATE SET training_id = excluded.training_id,
                model = excluded.model, version = excluded.version, at = now()""",
    )


async def signed_body(request: Request, secrets: Sequence[str]) -> bytes:
    """Return the body, whose signature is checked."""
    body = await request.body()
    verify(
        secrets,
        message_id=request.headers["webhook-id"],
        timestamp=request.headers["webhook-timestamp"],
        signatures=request.headers["webhook-signature"],
        body=body,
        now=time.time(),  # noqa: TID251 (an edge)
    )
    return body


async def receive_webhooks(publish: Callable[[bytes], Awaitable[object]]) -> None:
    """Serve a receiver that answers 202 once *publish* has returned."""
    settings = ReceiverSettings.load()
    secrets = reveal(settings.webhook_secrets)

    async def receive(request: Request) -> Response:
        await publish(await signed_body(request, secrets))
        return Response(status_code=202)

    async def ready(_: Request) -> Response:
        return Response()

    routes = [Route("/webhooks/replicate", receive, methods=["POST"]), Route("/readyz", ready)]
    await serve(Starlette(routes=routes), settings.receiver_port)


async def serve(app: ASGIApp, port: int) -> None:
    """Serve *app* on loopback, without logs."""
    await uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False)).serve()
