"""Commands on webhook endpoints and their deliveries."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import AuditReason, DryRun, Limit, Output, Yes, group, run_async, timestamp

webhooks = group(
    "webhooks",
    """
    Webhook endpoints: public events over HTTP.

    \b
    modelswap webhooks add https://hooks.example.com/modelswap --events model.activated.v1
      shows the signing secret, once
    modelswap webhooks test ENDPOINT
      delivers a test
    modelswap webhooks deliveries ENDPOINT
      the outcome of each
    """,
)

Endpoint = Annotated[str, typer.Argument(help="Its id.")]
Events = typer.Option("--events", metavar="EVENTS", help="Which events: model.activated.v1,model.withdrawn.v1 …")
Description = typer.Option("--description", help="What it is for.")
_NO_REASON = "no reason was given"


@webhooks.command("list")
def webhooks_list(limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """List endpoints, newest first."""
    from services.cli.webhooks.endpoints import list_endpoints

    run_async(list_endpoints(limit=limit, output=output))


@webhooks.command("add")
def webhooks_add(
    url: Annotated[str, typer.Argument(help="An https address on the public internet.")],
    events: Annotated[str, Events],
    description: Annotated[str, Description] = "",
    reason: AuditReason = _NO_REASON,
    output: Output = Format.TABLE,
) -> None:
    """
    Add an endpoint, and show its signing secret.

    Example: modelswap webhooks add https://hooks.example.com/modelswap --events model.activated.v1,model.withdrawn.v1
    """
    from services.cli.webhooks.endpoints import add

    run_async(add(url, events, description, reason=reason, output=output))


@webhooks.command("show")
def webhooks_show(endpoint: Endpoint, output: Output = Format.TABLE) -> None:
    """Show one endpoint."""
    from services.cli.webhooks.endpoints import show

    run_async(show(endpoint, output))


@webhooks.command("edit")
def webhooks_edit(
    *,
    endpoint: Endpoint,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    events: Annotated[str | None, Events] = None,
    description: Annotated[str | None, Description] = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--pause", help="Let deliveries go on, also after it was disabled; or let them wait."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why. It is kept in the audit; --enable needs it.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """
    Change an endpoint. What is not given stays as it is.

    Example: modelswap webhooks edit 5f0e6b1c-2f0a-4c1e-9a55-6d6f64737770 --enable --reason "it is mended"
    """
    from services.cli.webhooks.endpoints import edit

    if enabled and not reason:
        raise typer.BadParameter("say why it is enabled, for the audit", param_hint="--reason")
    status = None if enabled is None else "enabled" if enabled else "paused"
    given = {"url": url, "events": events, "description": description, "status": status}
    run_async(edit(endpoint, given, reason=reason or _NO_REASON, output=output))


@webhooks.command("remove")
def webhooks_remove(
    endpoint: Endpoint, *, reason: AuditReason = _NO_REASON, yes: Yes = False, output: Output = Format.TABLE
) -> None:
    """
    Remove an endpoint.

    Deliveries that it has not got yet are lost.
    """
    from services.cli.webhooks.endpoints import remove

    run_async(remove(endpoint, reason=reason, yes=yes, output=output))


@webhooks.command("rotate-secret")
def webhooks_rotate_secret(endpoint: Endpoint, reason: AuditReason = _NO_REASON, output: Output = Format.TABLE) -> None:
    """
    Make a new signing secret, and show it.

    For a day, webhooks are signed with the one before as well.
    """
    from services.cli.webhooks.endpoints import rotate_secret

    run_async(rotate_secret(endpoint, reason=reason, output=output))


@webhooks.command("test")
def webhooks_test(endpoint: Endpoint, reason: AuditReason = _NO_REASON, output: Output = Format.TABLE) -> None:
    """Deliver a test event, which is no fact about a user."""
    from services.cli.webhooks.endpoints import send_test

    run_async(send_test(endpoint, reason=reason, output=output))


@webhooks.command("deliveries")
def webhooks_deliveries(
    endpoint: Endpoint,
    status: Annotated[
        str | None, typer.Option("--status", help="waiting, queued, retrying, delivered or failed.")
    ] = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """List an endpoint's deliveries, newest first."""
    from services.cli.webhooks.endpoints import list_deliveries

    run_async(list_deliveries(endpoint, status=status, limit=limit, output=output))


@webhooks.command("resend")
def webhooks_resend(
    *,
    endpoint: Endpoint,
    delivery: Annotated[str | None, typer.Argument(help="Its id; or select several with --since.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="All that failed since then: 24h, 7d …")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Since then also those that were delivered.")] = False,
    reason: AuditReason,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Deliver again: one delivery, or all that failed since then.

    Example: modelswap webhooks resend 5f0e6b1c-2f0a-4c1e-9a55-6d6f64737770 --since 24h --reason "it was down"
    """
    from services.cli.webhooks.endpoints import resend_one, resend_since

    if (delivery is None) == (since is None):
        raise typer.BadParameter("name a delivery, or a time with --since", param_hint="DELIVERY")
    if since is None:
        if dry_run or everything:
            hint = "--dry-run" if dry_run else "--all"
            raise typer.BadParameter("is for those since a time: give --since, and no delivery", param_hint=hint)
        run_async(resend_one(endpoint, delivery or "", reason, output))
    else:
        run_async(
            resend_since(
                endpoint,
                {"since": timestamp(since), "all": everything, "reason": reason},
                dry_run=dry_run,
                yes=yes,
                output=output,
            )
        )
