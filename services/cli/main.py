"""Which commands are there? The tree; each command imports what it needs when it runs, so that help is quick."""

# ruff: noqa: PLC0415 (as it says)

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from services.cli.problem import exit_code, explain
from services.cli.words import Format, Process, Trigger
from shared.contract.errors import ModelswapError

T = TypeVar("T")

Output = Annotated[Format, typer.Option("--output", "-o", help="How to print: for people or for programs.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]
User = Annotated[str, typer.Argument(help="The product's own id of a user.", show_default=False)]

Begin = Annotated[
    str,
    typer.Option("--since", metavar="TIME", help="From then on: how long ago (24h, 7d) or when.", show_default=False),
]

TrainingArgument = typer.Argument(help="Replicate's id of the training, or our ref.", show_default=False)

LetterNumbers = Annotated[
    list[int] | None, typer.Argument(help="Their numbers; or what they share:", show_default=False)
]
LetterNumber = Annotated[int, typer.Argument(help="Its number.", show_default=False)]
LetterReason = Annotated[str, typer.Option(help="Why. It is kept in the audit.", show_default=False)]
LetterGroup = Annotated[
    str | None, typer.Option("--group", metavar="FINGERPRINT", help="Of this group only.", show_default=False)
]
LetterStatus = Annotated[
    str | None, typer.Option("--status", help="open, replaying, resolved or dropped.", show_default=False)
]
LetterQueue = Annotated[str | None, typer.Option("--queue", help="Where it failed.", show_default=False)]
ErrorCode = Annotated[str | None, typer.Option("--error-code", help="E.g. unknown_training.", show_default=False)]
ErrorClass = Annotated[str | None, typer.Option("--error-class", help="E.g. PermanentError.", show_default=False)]
EventType = Annotated[str | None, typer.Option("--event-type", help="E.g. model.ready.v1.", show_default=False)]
LetterTraining = Annotated[str | None, typer.Option("--training", help="Replicate's id.", show_default=False)]
LetterUser = Annotated[str | None, typer.Option("--user", help="Once it is known whose it is.", show_default=False)]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Failed since: 2h, 7d …", show_default=False)
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Failed before then.", show_default=False)]
Words = Annotated[str | None, typer.Option("--text", help="Words in the error's text.", show_default=False)]

ReplayArgument = Annotated[str, typer.Argument(help="The replay's id, or its beginning.", show_default=False)]
ReplayReason = Annotated[str, typer.Option(help="Why. It is kept in the audit.", show_default=False)]


def _group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True)


app = typer.Typer(
    help="A training on Replicate ended: find its model, prove that it works, swap it in. Begin with `modelswap demo`.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help takes half the time of a coloured one.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config = _group("What the processes are set up with.")
db = _group("The database.")
topology = _group("Exchanges and queues on the broker.")
trainings = _group("Trainings, as the product's API shows them.")
models = _group("Users' models, as the product's API shows them.")
dead_letters = _group("What failed and was set aside.")
replays = _group("Replays of dead letters, and what became of each.")
reconcile = _group("Trainings of which no webhook came.")
app.add_typer(trainings, name="trainings")
app.add_typer(models, name="models")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(replays, name="replays")
app.add_typer(reconcile, name="reconcile")
app.add_typer(config, name="config")
app.add_typer(db, name="db")
app.add_typer(topology, name="topology")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in *arguments*, or that was typed; an error with a name is one line and what to do next."""
    try:
        app(arguments, prog_name="modelswap")
    except ModelswapError as error:
        sys.stderr.write(explain(error))
        return exit_code(error)
    except OSError as error:
        # A full disk, a file that can not be read: the machine's, not ours.
        sys.stderr.write(f"modelswap: {type(error).__name__}: {error}\nNext: modelswap doctor\n")
        return 1
    return 0


@app.command()
def demo() -> None:
    """
    Watch three trainings, with nothing to set up.

    One succeeds; one fails, and its user keeps the old model; one replaces a model that works until the swap. With
    private servers, all services and a simulated Replicate: within two minutes everything is gone again.
    """
    from services.cli.demo import demo as run

    run(os.environ)


@app.command()
def up(
    *,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="With a private RabbitMQ and Postgres, and secrets made for them.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(help="Keep the private servers' data and secrets here.", file_okay=False, show_default=False),
    ] = None,
    simulator: Annotated[
        bool | None,
        typer.Option(
            "--simulator/--no-simulator",
            help="With a simulated Replicate. Default: with --embedded, unless MODELSWAP_REPLICATE_API_TOKEN is set.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Run all services on this machine until Ctrl-C.

    If one of them ends by itself, all are stopped, and the exit code is 1.
    """
    from services.cli.up import up as run

    if state is not None and not embedded:
        raise typer.BadParameter("only private servers have a state to keep: add --embedded", param_hint="--state")
    run(os.environ, embedded=embedded, state=state, simulator=simulator)


@app.command()
def serve(name: Annotated[Process, typer.Argument(help="Which one.", show_default=False)]) -> None:
    """Run one process, as `python -m services.NAME` does."""
    import runpy

    runpy.run_module(f"services.{name}", run_name="__main__", alter_sys=True)


@app.command()
def doctor(output: Output = Format.TABLE) -> None:
    """
    Check settings, broker, database and Replicate.

    Says of each what to do about it. Exit code 1 if something is wrong.
    """
    from services.cli.doctor import examine, print_findings

    findings = _run(examine(os.environ))
    if not print_findings(findings, output):
        raise typer.Exit(1)


@config.command("show")
def config_show(output: Output = Format.TABLE) -> None:
    """
    Show every setting as it counts now.

    Secrets are masked. Says where each setting comes from and which processes heed it.
    """
    from services.cli.config import show

    show(os.environ, output)


@db.command("migrate")
def db_migrate() -> None:
    """Bring the database up to date."""
    from services.cli import servers

    for name in _run(servers.migrate(os.environ)):
        print(f"applied {name}")
    print("the database is up to date")


@db.command("status")
def db_status(output: Output = Format.TABLE) -> None:
    """
    Show which migrations are applied.

    Exit code 1 if some are not.
    """
    from services.cli import servers

    if not servers.print_migrations(_run(servers.migration_status(os.environ)), output):
        raise typer.Exit(1)


@topology.command("apply")
def topology_apply() -> None:
    """
    Declare every exchange and queue.

    What exists already is left as it is.
    """
    from services.cli import servers

    there = _run(servers.declare_topology(os.environ))
    print(f"{len(there.exchanges)} exchanges and {len(there.queues)} queues are there")


@topology.command("diff")
def topology_diff(output: Output = Format.TABLE) -> None:
    """
    Show what is missing on the broker, or differs.

    Exit code 1 if something does.
    """
    from services.cli import servers

    if not servers.print_differences(_run(servers.diff_topology(os.environ)), output):
        raise typer.Exit(1)


@trainings.command("list")
def trainings_list(
    user: Annotated[str | None, typer.Option(help="Of this user only.", show_default=False)] = None,
    stage: Annotated[str | None, typer.Option(help="In this stage only, e.g. running.", show_default=False)] = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """List trainings, newest first."""
    from services.cli.trainings import list_trainings

    _run(list_trainings(user_id=user, stage=stage, limit=limit, output=output))


@trainings.command("show")
def trainings_show(training: Annotated[str, TrainingArgument], output: Output = Format.TABLE) -> None:
    """Show all that is known of a training."""
    from services.cli.trainings import show_training

    _run(show_training(training, output))


@trainings.command("watch")
def trainings_watch(training: Annotated[str | None, TrainingArgument] = None, output: Output = Format.TABLE) -> None:
    """
    Watch a training, or all that are underway.

    Until they have ended. Exit code 1 if one ends without a model.
    """
    from services.cli.trainings import watch

    ended = _stream(watch(training, output))
    if any(each.failure for each in ended or ()):
        raise typer.Exit(1)


@trainings.command("retry-extraction")
def trainings_retry_extraction(
    training: Annotated[str | None, TrainingArgument] = None,
    user: Annotated[
        str | None, typer.Option(help="Instead: this user's newest training without a model.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Look for a training's model once more.

    For one that succeeded, but no usable model was found. The model that its user uses now stays until then.

    Example: modelswap trainings retry-extraction zz4ibbonubfz7carwiefibzgga

    Example: modelswap trainings retry-extraction --user user-42
    """
    from services.cli.asking import retry_extraction

    if (training is None) == (user is None):
        raise typer.BadParameter("name a training, or a user with --user", param_hint="TRAINING")
    _run(retry_extraction(training, user, output))


@trainings.command("cancel")
def trainings_cancel(training: Annotated[str, TrainingArgument], output: Output = Format.TABLE) -> None:
    """
    Have Replicate end a training.

    It is canceled when Replicate says so: watch it with `modelswap trainings watch TRAINING`.

    Example: modelswap trainings cancel zz4ibbonubfz7carwiefibzgga
    """
    from services.cli.asking import cancel

    _run(cancel(training, output))


@trainings.command("re-extract")
def trainings_re_extract(
    since: Begin,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what today's parser makes of each output. Nothing is changed.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the audit; needed without --dry-run.", show_default=False)] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    limit: Limit = 1000,
    output: Output = Format.TABLE,
) -> None:
    """
    Read past outputs with today's parser.

    The dry run compares each with the model that its training has: same, different, now found, now fails, still fails.
    Without it, each unverified training of which a model is found now is looked at again, through the usual gate; those
    that have a model are left alone.

    Example: modelswap trainings re-extract --since 7d --dry-run

    Example: modelswap trainings re-extract --since 2026-11-24T08:00 --reason "parser fixed in 0.2.0"
    """
    from services.cli import past

    begin = _moment(since)
    if dry_run:
        _run(past.re_extract(begin, limit=limit, output=output))
        return
    if not reason:
        raise typer.BadParameter("say why, for the audit; or try it with --dry-run", param_hint="--reason")
    found = _run(past.found_by_now(begin, limit=limit))
    if found and not yes:
        typer.confirm(f"Look again at {len(found)} trainings?", abort=True, err=True)
    refused = _run(past.look_again(found, reason))
    past.print_looked_again(found, refused, output)
    if refused:
        raise typer.Exit(1)


@dead_letters.command("try")
def dead_letters_try(since: Begin, limit: Limit = 1000, output: Output = Format.TABLE) -> None:
    """
    Read the extractor's dead letters with today's parser.

    The parser is this command's own: so a fix can be tried before it is deployed. Says which letters would give which
    model now, and which still fail and how. Nothing is changed, and whether the models work is not asked.

    Example: modelswap dead-letters try --since 24h

    Example: modelswap dead-letters try --since 24h -o json | jq .groups
    """
    from services.cli.past import try_letters

    _run(try_letters(_moment(since), limit=limit, output=output))


@reconcile.command("status")
def reconcile_status(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """
    Show whether Replicate's webhooks reach us.

    How many trainings were recovered because no webhook came, how the last round went, and what was overdue last. Exit
    code 1 if webhooks do not arrive.

    Example: modelswap reconcile status

    Example: modelswap reconcile status -o json | jq .recovered
    """
    from services.cli.reconcile import show_status

    if not _run(show_status(limit=limit, output=output)):
        raise typer.Exit(1)


@models.command("current")
def models_current(user: User, output: Output = Format.TABLE) -> None:
    """Show the model that a user uses now."""
    from services.cli.trainings import show_model

    _run(show_model(user, output))


@models.command("history")
def models_history(user: User, limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """List every change of a user's model, newest first."""
    from services.cli.trainings import show_history

    _run(show_history(user, limit=limit, output=output))


@models.command("rollback")
def models_rollback(
    *,
    user: User,
    reason: Annotated[str, typer.Option(help="Why. It is kept in the history.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Which of the user's models. Default: the one before.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, for scripts.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Use an earlier model of a user again.

    It beats every training that was requested before, even one that is ready later. What is requested afterwards
    counts again as always.

    Example: modelswap models rollback user-42 --reason "faces are too dark" --dry-run

    Example: modelswap models rollback user-42 --to acme/user-42:VERSION --reason "as before" --yes
    """
    from services.cli.asking import roll_back

    _run(roll_back(user, to=to, reason=reason, dry_run=dry_run, yes=yes, output=output))


@dead_letters.command("list")
def dead_letters_list(
    *,
    status: LetterStatus = None,
    group: LetterGroup = None,
    queue: LetterQueue = None,
    error_code: ErrorCode = None,
    error_class: ErrorClass = None,
    event_type: EventType = None,
    training: LetterTraining = None,
    user: LetterUser = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """
    List dead letters, newest first.

    Example: modelswap dead-letters list --status open --since 2h

    Example: modelswap dead-letters list --group 3f9a0c51d2e47b68 --limit 100 -o json
    """
    from services.cli.letters import list_letters, wanted

    chosen = wanted(_letters(locals()))
    _run(list_letters(chosen, limit=limit, output=output))


@dead_letters.command("groups")
def dead_letters_groups(status: LetterStatus = None, limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """
    List dead letters by their most likely causes.

    The newest kind of failure first. How many failed in the last hour, day and week says whether it goes on. With a
    status: groups that have a letter with it.

    Example: modelswap dead-letters groups --status open
    """
    from services.cli.letters import list_groups

    _run(list_groups(status, limit=limit, output=output))


@dead_letters.command("show")
def dead_letters_show(number: LetterNumber, output: Output = Format.TABLE) -> None:
    """
    Show one dead letter whole: its headers, its body, its error.

    Example: modelswap dead-letters show 17
    """
    from services.cli.letters import show_letter

    _run(show_letter(number, output))


@dead_letters.command("drop")
def dead_letters_drop(
    *,
    numbers: LetterNumbers = None,
    reason: LetterReason,
    group: LetterGroup = None,
    queue: LetterQueue = None,
    error_code: ErrorCode = None,
    error_class: ErrorClass = None,
    event_type: EventType = None,
    training: LetterTraining = None,
    user: LetterUser = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Say that open letters are not to be repaired.

    They are kept for a while, and can be restored until then.

    Example: modelswap dead-letters drop 17 18 --reason "trainings of the load test"

    Example: modelswap dead-letters drop --group 3f9a0c51d2e47b68 --until 1d --reason "trainings of the load test"
    """
    from services.cli.letters import change, wanted

    chosen = wanted(_letters(locals()))
    _run(change("drop", numbers or (), chosen, reason=reason, output=output))


@dead_letters.command("restore")
def dead_letters_restore(
    *,
    numbers: LetterNumbers = None,
    reason: LetterReason,
    group: LetterGroup = None,
    queue: LetterQueue = None,
    error_code: ErrorCode = None,
    error_class: ErrorClass = None,
    event_type: EventType = None,
    training: LetterTraining = None,
    user: LetterUser = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Open dropped letters again.

    Example: modelswap dead-letters restore --group 3f9a0c51d2e47b68 --reason "they were real"
    """
    from services.cli.letters import change, wanted

    chosen = wanted(_letters(locals()))
    _run(change("restore", numbers or (), chosen, reason=reason, output=output))


@dead_letters.command("export")
def dead_letters_export(
    *,
    status: LetterStatus = None,
    group: LetterGroup = None,
    queue: LetterQueue = None,
    error_code: ErrorCode = None,
    error_class: ErrorClass = None,
    event_type: EventType = None,
    training: LetterTraining = None,
    user: LetterUser = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    limit: Limit = 1000,
) -> None:
    """
    Print dead letters whole, one JSON line each, newest first.

    The body is base64: byte for byte, whatever it is.

    Example: modelswap dead-letters export --group 3f9a0c51d2e47b68 > letters.jsonl
    """
    from services.cli.letters import export, wanted

    chosen = wanted(_letters(locals()))
    _run(export(chosen, limit=limit))


@dead_letters.command("replay")
def dead_letters_replay(
    *,
    numbers: LetterNumbers = None,
    reason: LetterReason,
    group: LetterGroup = None,
    queue: LetterQueue = None,
    error_code: ErrorCode = None,
    error_class: ErrorClass = None,
    event_type: EventType = None,
    training: LetterTraining = None,
    user: LetterUser = None,
    since: Since = None,
    until: Until = None,
    text: Words = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say of each letter what would happen; wait for all of it.")
    ] = False,
    rate: Annotated[float | None, typer.Option(help="How many a second. Default: 10.", show_default=False)] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="How many at a time: numbers, shares, the rest. Default: 1,5%,rest.", show_default=False),
    ] = None,
    stop_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stop when more than this share fails. Default: 0.2.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not look first and do not ask, for scripts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end. Exit code 1 if a letter failed.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Send dead letters back to where they came from.

    Which letters is settled at once: what fails meanwhile is not among them. Unless told --yes, a dry run looks first,
    and just what it looked at is replayed. A step begins when every letter of the one before has its outcome. An old
    letter never undoes a newer swap.

    Example: modelswap dead-letters replay 17 18 --reason "parser mended in 1.4.2"

    Example: modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "parser mended" --dry-run

    Example: modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "mended" --rate 5 --steps 1,10,rest --watch

    Example: modelswap dead-letters replay --user user-42 --since 2h --reason "asked by support" --yes
    """
    from services.cli.letters import wanted
    from services.cli.replays import Plan, replay

    plan = Plan(numbers or (), wanted(_letters(locals())), reason, rate, steps, stop_share)
    if not _stream(replay(plan, dry_run=dry_run, yes=yes, watch=watch, output=output)) and watch:
        raise typer.Exit(1)


@dead_letters.command("edit")
def dead_letters_edit(
    number: LetterNumber,
    reason: LetterReason,
    body: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The new body, as JSON; - reads it. Default: your editor.", show_default=False
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Replay one letter with another body.

    The letter itself is kept as it is. Ids can not be edited, and it must still say the same kind of thing.

    Example: modelswap dead-letters edit 17 --reason "version was cut off"

    Example: modelswap dead-letters edit 17 --reason "version was cut off" --body mended.json
    """
    from services.cli.replays import edit

    text = None if body is None else sys.stdin.read() if str(body) == "-" else body.read_text(encoding="utf-8")
    _run(edit(number, text=text, reason=reason, output=output))


@replays.command("list")
def replays_list(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """List replays, newest first."""
    from services.cli.replays import list_replays

    _run(list_replays(limit=limit, output=output))


@replays.command("show")
def replays_show(
    *,
    replay: ReplayArgument,
    outcome: Annotated[
        str | None, typer.Option(help="Only letters with this outcome, e.g. failed.", show_default=False)
    ] = None,
    limit: Limit = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until nothing changes by itself any more.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Show a replay and what became of its letters.

    Example: modelswap replays show 5f0e --outcome failed
    """
    from services.cli.replays import show

    _stream(show(replay, outcome=outcome, limit=limit, watch=watch, output=output))


@replays.command("start")
def replays_start(
    *,
    replay: ReplayArgument,
    reason: ReplayReason = "",
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Replay just the letters that a dry run looked at."""
    from services.cli.replays import steer

    _stream(steer(replay, "start", reason=reason, watch=watch, output=output))


@replays.command("pause")
def replays_pause(replay: ReplayArgument, reason: ReplayReason = "", output: Output = Format.TABLE) -> None:
    """Send no more for now; outcomes of what went come all the same."""
    from services.cli.replays import steer

    _run(steer(replay, "pause", reason=reason, output=output))


@replays.command("resume")
def replays_resume(replay: ReplayArgument, reason: ReplayReason = "", output: Output = Format.TABLE) -> None:
    """
    Go on, also after it stopped by itself.

    What has failed so far does not stop it any more.
    """
    from services.cli.replays import steer

    _run(steer(replay, "resume", reason=reason, output=output))


@replays.command("cancel")
def replays_cancel(replay: ReplayArgument, reason: ReplayReason = "", output: Output = Format.TABLE) -> None:
    """
    Send no more at all; letters that did not go are open again.

    Those that went still get their outcome. Where that never comes (RabbitMQ lost its disk), cancel once more: they are
    given up, and open again, too.
    """
    from services.cli.replays import steer

    _run(steer(replay, "cancel", reason=reason, output=output))


@replays.command("undo")
def replays_undo(
    *,
    replay: ReplayArgument,
    reason: LetterReason,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until every user was looked at.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Take back every model that a replay has set.

    Of just those users who use it still; of each other one `replays show` says why not.

    Example: modelswap replays undo 5f0e --reason "they are all blurred" --watch
    """
    from services.cli.replays import steer

    _stream(steer(replay, "undo", reason=reason, watch=watch, output=output))


@app.command()
def audit(
    actor: Annotated[str | None, typer.Option(help="Who: the name of a token.", show_default=False)] = None,
    action: Annotated[str | None, typer.Option(help="What, e.g. letter.dropped.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help='Of what, e.g. "letter 17".', show_default=False)] = None,
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """
    List who did what with dead letters, and why.

    Example: modelswap audit --actor olga
    """
    from services.cli.letters import list_audit

    _run(list_audit({"actor": actor, "action": action, "target": target}, limit=limit, output=output))


@app.command()
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
    from services.cli.listen import listen as run

    _stream(run(types or (), forward_to, output))


@app.command()
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
    url: Annotated[str, typer.Option(help="Where the receiver is.")] = "http://127.0.0.1:8080",
) -> None:
    """
    Post a signed webhook, as Replicate would.

    It is signed with the first of MODELSWAP_WEBHOOK_SECRETS.
    """
    from services.cli.trigger import Order
    from services.cli.trigger import trigger as run

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
    print(_run(run(order, url)))


@app.command()
def extract() -> None:
    """
    Say which model each output names; a filter.

    Each line in: {"id", "training": {…}, "destination": "owner/name" or null}

    Each line out: {"id", "model", "version"} or {"id", "error", "detail"}
    """
    from services.cli.filters import run_filter
    from services.extractor.filter import extract_line

    run_filter(extract_line, sys.stdin.buffer, sys.stdout.buffer)


@app.command()
def progress() -> None:
    """
    Say how far each log is; a filter.

    Each line in: {"id", "logs": text, list or null, "input": {…}}

    Each line out: {"id", "progress": 0 to 100 or null, "step", "total"}
    """
    from services.cli.filters import run_filter
    from shared.replicate.filter import progress_line

    run_filter(progress_line, sys.stdin.buffer, sys.stdout.buffer)


def _letters(options: dict[str, Any]) -> dict[str, str | None]:
    """Which letters, in the API's words, by the *options* that a command was given."""
    names = {
        "status": "status",
        "group": "fingerprint",
        "queue": "queue",
        "error_code": "error_code",
        "error_class": "error_class",
        "event_type": "event_type",
        "training": "training_id",
        "user": "user_id",
        "since": "since",
        "until": "until",
        "text": "text",
    }
    return {name: options[option] for option, name in names.items() if option in options}


def _moment(since: str) -> datetime:
    from services.cli.moment import read_moment
    from shared.runtime.clock import now

    return read_moment(since, now=now())


def _run(work: Coroutine[Any, Any, T]) -> T:
    # typer does not await: an async command would do nothing, and say nothing of it.
    import asyncio

    return asyncio.run(work)


def _stream(work: Coroutine[Any, Any, T]) -> T | None:
    """Run what goes on until Ctrl-C, which is then no error."""
    try:
        return _run(work)
    except KeyboardInterrupt:
        return None
