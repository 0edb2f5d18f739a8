"""Commands that send webhooks, publish and show events, read the events log, and parse outputs and logs."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format, Trigger
from services.cli.options import Begin, EventTypes, Limit, Output, Yes, group, run_async, run_until_stopped

events = group("events", "Public events, as the events log keeps them.")

OfUser = Annotated[str | None, typer.Option("--user", help="Only events that name this user.")]
SomeTime = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Also older ones, from then on.")]


def listen(
    types: EventTypes = None,
    forward_to: Annotated[str | None, typer.Option(metavar="URL", help="Post each event there, signed.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Show public events as they are published.

    With --forward-to, each is also posted: a CloudEvent in binary mode, signed as Standard Webhooks define (webhook-id,
    webhook-timestamp, webhook-signature). The secret is MODELSWAP_LISTEN_SECRET, or else a new one, shown at the start.
    The events of one training are posted in order. No answer, 408, 425, 429 and 5xx are retried, 8 attempts within
    about a minute; no other answer is, and redirects are not followed. Each attempt is one line.
    """
    from services.cli.events.listen import listen as run

    run_until_stopped(run(types or (), forward_to, output))


def trigger(
    *,
    events: Annotated[
        list[Trigger], typer.Argument(metavar="EVENT", help="One or several, in the order in which they happen.")
    ],
    training: Annotated[
        str | None, typer.Option(help="Replicate's id of the training. Default, with --user: a new one.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="The user. An unknown training is registered first.")] = None,
    destination: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="The model that it trains.")] = None,
    version: Annotated[
        str | None, typer.Option(metavar="HEX", help="The version that it made. Default: made up.")
    ] = None,
    training_output: Annotated[
        str | None, typer.Option("--output", metavar="JSON", help="Its output, in any shape.")
    ] = None,
    percent: Annotated[int, typer.Option(min=0, max=100, help="Progress in its log.")] = 42,
    error: Annotated[str, typer.Option(help="Why it failed.")] = "CUDA out of memory",
    generation: Annotated[int, typer.Option(min=1, help="Of the first public event; later ones have higher ones.")] = 1,
    times: Annotated[int, typer.Option(min=1, max=1000, help="Send each this many times, with the same id.")] = 1,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Send all in random order.")] = False,
    seed: Annotated[int | None, typer.Option(help="Shuffle in the same order as the last time with this seed.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before public events are published.")] = False,
    url: Annotated[str | None, typer.Option(help="Address of the receiver. Default: MODELSWAP_RECEIVER_URL.")] = None,
) -> None:
    """
    Post webhooks as Replicate would, or publish public events.

    Webhooks are training.started, training.progressed, training.succeeded, training.failed and training.canceled. They
    are signed with the first of MODELSWAP_WEBHOOK_SECRETS, or else with the secret that Replicate's API returns. The
    product acts on them. If the simulated Replicate is configured, it is told of the training and its version first, so
    that a success becomes the user's model. The real Replicate must have the version already: give it with --version or
    --output, and the --destination.

    Example: modelswap trigger training.started training.succeeded --user ann

    Public events are model.ready, model.activated, model.withdrawn, model.superseded and extraction.failed. They are
    published to the exchange modelswap.events, for the tests of subscribers. They are made up, and marked by the header
    ce-trigger: none of our processes acts on them, and no user's model changes. Subscribers do act on them, so use a
    user that exists only in tests. Unless the configured Replicate is the simulated one, the command asks before it
    publishes.

    Example: modelswap trigger model.activated model.withdrawn model.activated --user test-1 --times 3 --shuffle
    """
    from random import Random

    from services.cli.events.request import TriggerRequest
    from services.cli.problem import Problem

    request = TriggerRequest(
        triggers=events,
        user_id=user,
        training_id=training,
        destination=destination,
        version=version,
        output=training_output,
        percent=percent,
        error=error,
        generation=generation,
        times=times,
        random=Random(seed) if shuffle or seed is not None else None,
    )
    webhooks = {event.is_webhook for event in events}
    if webhooks == {True}:
        from services.cli.events.trigger import trigger as post

        print(run_async(post(request, url)))
    elif webhooks == {False}:
        from services.cli.events.publish import publish

        print(run_async(publish(request, yes=yes)))
    else:
        raise Problem("webhooks and public events cannot be sent together", then="one command for each")


def extract() -> None:
    """
    Print the model that each output names; a filter.

    Each line in: {"id", "training": {…}, "destination": "owner/name" or null}

    Each line out: {"id", "model", "version"} or {"id", "error", "detail"}
    """
    from services.cli.events.filters import filter_lines
    from services.extractor.filter import extract_line

    filter_lines(extract_line)


def progress() -> None:
    """
    Print the progress that each log reports; a filter.

    Each line in: {"id", "logs": text, list or null, "input": {…}}

    Each line out: {"id", "progress": 0 to 100 or null, "step", "total"}
    """
    from services.cli.events.filters import filter_lines
    from shared.replicate.filter import progress_line

    filter_lines(progress_line)


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
