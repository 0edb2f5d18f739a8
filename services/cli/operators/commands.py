"""Commands on the audit, on reconciliation and on subscriptions."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import AuditReason, Limit, Output, Yes, group, run_async

reconcile = group("reconcile", "Trainings whose webhook never came.")
subscriptions = group(
    "subscriptions",
    """
    Queues of services that consume our events.

    Each has a queue with a length limit and a RabbitMQ user that can read only this queue and the log of all events.
    A service that is slow or gone delays no other service.

    \b
    modelswap subscriptions add generator --events model.activated.v1,model.withdrawn.v1
      prints the address with its password, once
    modelswap subscriptions list
      which services are behind
    """,
)

Name = Annotated[str, typer.Argument(help="Its name: a-z, 0-9 and hyphens.")]


def audit(
    actor: Annotated[str | None, typer.Option(help="Who: the name of a token.")] = None,
    action: Annotated[str | None, typer.Option(help="What, e.g. dead_letter.dropped.")] = None,
    target: Annotated[str | None, typer.Option(help='Of what, e.g. "dead letter 17".')] = None,
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """
    List who repaired what, and why.

    Example: modelswap audit --actor olga

    Example: modelswap audit --target "user user-42"
    """
    from services.cli.operators.audit import list_audit

    run_async(list_audit({"actor": actor, "action": action, "target": target}, limit=limit, output=output))


@reconcile.command("status")
def reconcile_status(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """
    Show whether Replicate's webhooks reach us.

    How many trainings were recovered because no webhook came, the last round's result, and what was overdue. Exit code
    1 if webhooks do not arrive.

    Example: modelswap reconcile status

    Example: modelswap reconcile status -o json | jq .recovered
    """
    from services.cli.operators.reconcile import show_status

    if not run_async(show_status(limit=limit, output=output)):
        raise typer.Exit(1)


@subscriptions.command("add")
def subscriptions_add(
    *,
    name: Name,
    events: Annotated[str, typer.Option(help="Names of public events, separated by commas.", metavar="EVENTS")],
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many events may wait; then the oldest moves to the overflow queue. At first 100000."
        ),
    ] = None,
    reason: AuditReason = "",
    output: Output = Format.TABLE,
) -> None:
    """
    Add a subscription, or change its events and its limit.

    The address with the password of a new subscription is printed once. Repeating the command changes nothing.

    Example: modelswap subscriptions add generator --events model.activated.v1,model.withdrawn.v1

    Example: modelswap subscriptions add generator --events model.activated.v1 --max-length 500000
    """
    from services.cli.operators.subscriptions import add

    run_async(add(name, events, max_length=max_length, reason=reason, output=output))


@subscriptions.command("list")
def subscriptions_list(limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """
    List subscriptions and how far each is behind.

    Example: modelswap subscriptions list
    """
    from services.cli.operators.subscriptions import list_subscriptions

    run_async(list_subscriptions(limit=limit, output=output))


@subscriptions.command("show")
def subscriptions_show(name: Name, output: Output = Format.TABLE) -> None:
    """
    Show one subscription.

    Example: modelswap subscriptions show generator
    """
    from services.cli.operators.subscriptions import show

    run_async(show(name, output))


@subscriptions.command("rotate-password")
def subscriptions_rotate_password(name: Name, reason: AuditReason = "", output: Output = Format.TABLE) -> None:
    """
    Give a subscription's user a new password.

    Prints the address with it. The old password ends at once; open connections stay open.

    Example: modelswap subscriptions rotate-password generator --reason "it was in a log"
    """
    from services.cli.operators.subscriptions import rotate_password

    run_async(rotate_password(name, reason=reason, output=output))


@subscriptions.command("remove")
def subscriptions_remove(
    *, name: Name, reason: AuditReason = "", yes: Yes = False, output: Output = Format.TABLE
) -> None:
    """
    Remove a subscription and the events in it.

    Its user is deleted, too. Asks first.

    Example: modelswap subscriptions remove generator --reason "moved to webhooks"
    """
    from services.cli.operators.subscriptions import remove

    run_async(remove(name, reason=reason, yes=yes, output=output))
