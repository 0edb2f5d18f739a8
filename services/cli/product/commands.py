"""Commands on trainings and models."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import DryRun, HistoryReason, Limit, Output, User, Yes, group, run_async, run_until_stopped

trainings = group("trainings", "Trainings, as the product's API shows them.")
models = group("models", "Users' models, as the product's API shows them.")

TrainingArgument = typer.Argument(help="Replicate's id of the training, or our ref.")


@trainings.command("list")
def trainings_list(
    user: Annotated[str | None, typer.Option(help="Of this user only.")] = None,
    stage: Annotated[str | None, typer.Option(help="In this stage only, e.g. running.")] = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """List trainings, newest first."""
    from services.cli.product.trainings import list_trainings

    run_async(list_trainings(user_id=user, stage=stage, limit=limit, output=output))


@trainings.command("show")
def trainings_show(training: Annotated[str, TrainingArgument], output: Output = Format.TABLE) -> None:
    """Show everything about a training."""
    from services.cli.product.trainings import show_training

    run_async(show_training(training, output))


@trainings.command("timeline")
def trainings_timeline(training: Annotated[str, TrainingArgument], output: Output = Format.TABLE) -> None:
    """
    Show all that happened to a training, oldest first.

    Each webhook, extraction and check with its evidence, swap, published event and replay, and the time between.

    Example: modelswap trainings timeline zz4ibbonubfz7carwiefibzgga
    """
    from services.cli.product.trainings import show_timeline

    run_async(show_timeline(training, output))


@trainings.command("watch")
def trainings_watch(training: Annotated[str | None, TrainingArgument] = None, output: Output = Format.TABLE) -> None:
    """
    Watch a training, or all that are underway.

    Until they have ended. Exit code 1 if one ends without a model.
    """
    from services.cli.product.trainings import watch

    ended = run_until_stopped(watch(training, output))
    if any(each.failure for each in ended or ()):
        raise typer.Exit(1)


@trainings.command("retry-extraction")
def trainings_retry_extraction(
    training: Annotated[str | None, TrainingArgument] = None,
    user: Annotated[str | None, typer.Option(help="Instead: this user's newest training without a model.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Retry the extraction of a training's model.

    For a training that succeeded without a usable model. Its user keeps the current model until a new one is verified.

    Example: modelswap trainings retry-extraction zz4ibbonubfz7carwiefibzgga

    Example: modelswap trainings retry-extraction --user user-42
    """
    from services.cli.product.trainings import retry_extraction

    if (training is None) == (user is None):
        raise typer.BadParameter("name a training, or a user with --user", param_hint="TRAINING")
    run_async(retry_extraction(training, user or "", output))


@trainings.command("cancel")
def trainings_cancel(training: Annotated[str, TrainingArgument], output: Output = Format.TABLE) -> None:
    """
    Ask Replicate to cancel a training.

    It is canceled once Replicate says so: watch it with `modelswap trainings watch TRAINING`.

    Example: modelswap trainings cancel zz4ibbonubfz7carwiefibzgga
    """
    from services.cli.product.trainings import cancel

    run_async(cancel(training, output))


@models.command("current")
def models_current(user: User, output: Output = Format.TABLE) -> None:
    """Show a user's current model."""
    from services.cli.product.models import show_model

    run_async(show_model(user, output))


@models.command("history")
def models_history(user: User, limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """List every change of a user's model, newest first."""
    from services.cli.product.models import show_history

    run_async(show_history(user, limit=limit, output=output))


@models.command("rollback")
def models_rollback(
    *,
    user: User,
    reason: HistoryReason,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Which of the user's models. Default: the newest earlier one that was not rolled back or withdrawn.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Roll back to an earlier model of a user.

    It beats every training that was requested before, even one that is ready later. Trainings requested afterwards
    swap as usual. A model that was rolled back, undone or withdrawn is used again only if --to names it.

    Example: modelswap models rollback user-42 --reason "faces are too dark" --dry-run

    Example: modelswap models rollback user-42 --to acme/user-42:VERSION --reason "as before" --yes
    """
    from services.cli.product.models import roll_back

    run_async(roll_back(user, to=to, reason=reason, dry_run=dry_run, yes=yes, output=output))


@models.command("withdraw")
def models_withdraw(
    *,
    user: User,
    reason: HistoryReason,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Withdraw a user's model: the user has none afterwards.

    For a first model, before which there is none to roll back to. It beats every training that was requested before.
    Undo it with `modelswap models rollback USER --to MODEL --reason TEXT`.

    Example: modelswap models withdraw user-42 --reason "trained on photos of somebody else" --dry-run
    """
    from services.cli.product.models import withdraw

    run_async(withdraw(user, reason=reason, dry_run=dry_run, yes=yes, output=output))
