"""Commands on the events log."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import Begin, EventTypes, Limit, Output, Yes, group, run_async, run_until_stopped

events = group("events", "Public events, as the events log keeps them.")

OfUser = Annotated[str | None, typer.Option("--user", help="Only events that name this user.")]
SomeTime = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Also older ones, from then on.")]


@events.command("list")
def events_list(
    *,
    since: Begin = "24h",
    user: OfUser = None,
    types: EventTypes = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """
    List events of the log, newest first.

    Example: modelswap events list --user user-42 --since 7d

    Example: modelswap events list --type model.withdrawn --limit 100 -o json
    """
    from services.cli.events.past import list_events

    run_async(list_events(types or (), user_id=user, since=since, limit=limit, output=output))


@events.command("tail")
def events_tail(
    *, since: SomeTime = None, user: OfUser = None, types: EventTypes = None, output: Output = Format.TABLE
) -> None:
    """
    Show events as they reach the log.

    Unlike `modelswap listen` it needs no queue of its own, and can begin in the past.

    Example: modelswap events tail --since 1h --type model.activated
    """
    from services.cli.events.past import tail_events

    run_until_stopped(tail_events(types or (), user_id=user, since=since, output=output))


@events.command("resend")
def events_resend(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Its id (ce-id), as events list shows it.")],
    *,
    to: Annotated[
        str | None, typer.Option("--to", metavar="SUBSCRIPTION", help="Only to the queue of this subscription.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Look for it from then on, which is faster.")
    ] = None,
    yes: Yes = False,
) -> None:
    """
    Publish an event of the log again, with the same id and content.

    To every subscriber, and to the log, unless --to names one. Subscribers that know it already ignore it. Shows the
    event and asks before it publishes.

    Example: modelswap events resend 0191f2ba-93c1-5b7e-8a52-6d6f64737770 --to generator
    """
    from services.cli.events.past import resend_event

    print(run_async(resend_event(event_id, to=to, since=since, yes=yes)))
