"""Which commands send webhooks, hear events, and read outputs and logs?"""

# ruff: noqa: PLC0415 (each command imports what it needs when it runs, so that help is quick)

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format, Trigger
from services.cli.options import Output, run_async, run_until_stopped


def listen(
    types: Annotated[
        list[str] | None,
        typer.Option(help="Only these events, e.g. model.activated; may be given several times.", show_default=False),
    ] = None,
    forward_to: Annotated[
        str | None, typer.Option(metavar="URL", help="Post each event there, signed.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Show public events as they are published.

    With --forward-to, each is posted as well: a CloudEvent in binary mode, signed as Standard Webhooks do (webhook-id,
    webhook-timestamp, webhook-signature). The secret is MODELSWAP_LISTEN_SECRET; without that a new one, which is
    shown at the start. The events of one training are posted in their order. No answer, 408, 425, 429 and 5xx are tried
    again, 8 times within about a minute; no other answer is, and no redirect is followed. Each attempt is one line.
    """
    from services.cli.events.listen import listen as run

    run_until_stopped(run(types or (), forward_to, output))


def trigger(  # noqa: PLR0917 (typer gives them by name)
    events: Annotated[
        list[Trigger],
        typer.Argument(metavar="EVENT", help="One or several, in the order in which they happen.", show_default=False),
    ],
    training: Annotated[
        str | None,
        typer.Option(help="Replicate's id of the training. Default, with --user: a new one.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Whose. A training that is not known is registered first.", show_default=False)
    ] = None,
    destination: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="The model that it trains.", show_default=False)
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="HEX", help="The version that it made. Default: made up.", show_default=False)
    ] = None,
    training_output: Annotated[
        str | None, typer.Option("--output", metavar="JSON", help="Its output, whatever its shape.", show_default=False)
    ] = None,
    percent: Annotated[int, typer.Option(min=0, max=100, help="How far its log says it is.")] = 42,
    error: Annotated[str, typer.Option(help="Why it failed.")] = "CUDA out of memory",
    generation: Annotated[int, typer.Option(min=1, help="Of the first public event; later ones have higher ones.")] = 1,
    times: Annotated[int, typer.Option(min=1, max=1000, help="Send each so often, with the same id.")] = 1,
    *,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Send all in an order by chance.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Shuffle in the same order as the last time with this seed.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before public events are published.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Where the receiver is. Default: MODELSWAP_RECEIVER_URL.", show_default=False)
    ] = None,
) -> None:
    """
    Post webhooks as Replicate would, or publish public events.

    Webhooks are training.started, training.progressed, training.succeeded, training.failed and training.canceled. They
    are signed with the first of MODELSWAP_WEBHOOK_SECRETS; without any, with what Replicate says that it signs with.
    The product acts on them. The simulated Replicate, where that is configured, is told of the training and of its
    version first, so that a success becomes the user's model. Any other Replicate must have the version already: say
    which with --version or --output, and the --destination.

    Example: modelswap trigger training.started training.succeeded --user ann

    Public events are model.ready, model.activated, model.withdrawn, model.superseded and extraction.failed. They are
    published to the exchange modelswap.events, for the tests of subscribers. They are made up, and marked so by the
    header ce-trigger: none of our processes acts on them, and no user's model changes. Subscribers do act on them, so
    name a user that only tests have. Where the configured Replicate is not the simulated one, the command asks before
    it publishes.

    Example: modelswap trigger model.activated model.withdrawn model.activated --user test-1 --times 3 --shuffle
    """
    from random import Random

    from services.cli.events.order import Order
    from services.cli.problem import Problem

    order = Order(
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
        dice=Random(seed) if shuffle or seed is not None else None,  # noqa: S311 (an order, no secret)
    )
    webhooks = {event.is_webhook for event in events}
    if webhooks == {True}:
        from services.cli.events.trigger import trigger as post

        print(run_async(post(order, url)))
    elif webhooks == {False}:
        from services.cli.events.publish import publish

        print(run_async(publish(order, yes=yes)))
    else:
        raise Problem("webhooks and public events do not go together", then="one command for each")


def extract() -> None:
    """
    Say which model each output names; a filter.

    Each line in: {"id", "training": {…}, "destination": "owner/name" or null}

    Each line out: {"id", "model", "version"} or {"id", "error", "detail"}
    """
    from services.cli.events.filters import filter_lines
    from services.extractor.filter import extract_line

    filter_lines(extract_line)


def progress() -> None:
    """
    Say how far each log is; a filter.

    Each line in: {"id", "logs": text, list or null, "input": {…}}

    Each line out: {"id", "progress": 0 to 100 or null, "step", "total"}
    """
    from services.cli.events.filters import filter_lines
    from shared.replicate.filter import progress_line

    filter_lines(progress_line)
