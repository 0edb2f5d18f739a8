"""Which commands send webhooks, hear events, and read outputs and logs?"""

# ruff: noqa: PLC0415 (each command imports what it needs when it runs, so that help is quick)

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import Output, run_async, run_until_stopped
from services.cli.words import Format, Trigger


def listen(
    types: Annotated[
        list[str] | None,
        typer.Option(help="Only these events, e.g. model.activated; may be given several times.", show_default=False),
    ] = None,
    forward_to: Annotated[
        str | None, typer.Option(metavar="URL", help="Post each event there, as a CloudEvent.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show public events as they are published."""
    from services.cli.wire.listen import listen as run

    run_until_stopped(run(types or (), forward_to, output))


def trigger(  # noqa: PLR0917 (typer gives them by name)
    event: Annotated[Trigger, typer.Argument(help="What the webhook says.", show_default=False)],
    training: Annotated[str, typer.Option(help="Replicate's id of the training.", show_default=False)],
    user: Annotated[
        str | None, typer.Option(help="Register the training for this user first.", show_default=False)
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
    url: Annotated[
        str | None, typer.Option(help="Where the receiver is. Default: MODELSWAP_RECEIVER_URL.", show_default=False)
    ] = None,
) -> None:
    """
    Post a signed webhook, as Replicate would.

    It is signed with the first of MODELSWAP_WEBHOOK_SECRETS; without any, with what Replicate says that it signs with.
    """
    from services.cli.wire.trigger import Order
    from services.cli.wire.trigger import trigger as run

    order = Order(
        trigger=event,
        training_id=training,
        user_id=user,
        destination=destination,
        version=version,
        output=training_output,
        percent=percent,
        error=error,
    )
    print(run_async(run(order, url)))


def extract() -> None:
    """
    Say which model each output names; a filter.

    Each line in: {"id", "training": {…}, "destination": "owner/name" or null}

    Each line out: {"id", "model", "version"} or {"id", "error", "detail"}
    """
    from services.cli.wire.filters import filter_lines
    from services.extractor.filter import extract_line

    filter_lines(extract_line)


def progress() -> None:
    """
    Say how far each log is; a filter.

    Each line in: {"id", "logs": text, list or null, "input": {…}}

    Each line out: {"id", "progress": 0 to 100 or null, "step", "total"}
    """
    from services.cli.wire.filters import filter_lines
    from shared.replicate.filter import progress_line

    filter_lines(progress_line)
