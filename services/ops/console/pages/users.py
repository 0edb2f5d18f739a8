"""The screen of a user: the current model, its history, roll back, withdraw. Edge."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from pydantic import JsonValue
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.client import Apis, Parts, Refused, ServiceDown, quoted
from services.ops.console.console import Console, Done, Visit, as_problem, form_route, page_route
from services.ops.console.forms import Form
from services.ops.console.views.filters import pager
from services.ops.console.views.problems import ProblemView, problem_view
from services.ops.console.views.trainings import ChangeAnswer, ModelAnswer, TrainingAnswer, user_path
from services.ops.letters.views import LetterLine
from shared.contract.answers import Page

_PAGE: Final = "50"
_TRAININGS: Final = "20"
_LETTERS: Final = "20"
#: State asks for a reason in a dry run too, and keeps none.
_PREVIEW: Final = "preview in the console"
_VERBS: Final = ("rollback", "withdraw")


def routes(console: Console) -> list[Route]:
    """Return the routes of a user. The id may hold slashes, so what is done stands at the end of the path."""
    return [
        page_route(console, "/users/{user:path}", _show_user),
        form_route(console, "/users/{user:path}/rollback", _roll_back, again=_show_user),
        form_route(console, "/users/{user:path}/withdraw", _withdraw, again=_show_user),
    ]


async def _show_user(visit: Visit, problem: ProblemView | None = None) -> Response:
    apis, user, cursor = visit.apis, _user(visit), visit.cursor
    parts = Parts()
    current, history, trainings, letters = await asyncio.gather(
        _find_model(apis, user),
        apis.state.get(
            Page[ChangeAnswer],
            f"/users/{quoted(user)}/model/history",
            {"limit": _PAGE, "cursor": cursor},
        ),
        apis.state.get(Page[TrainingAnswer], f"/users/{quoted(user)}/trainings", {"limit": _TRAININGS}),
        parts.of("They", apis.ops.get(Page[LetterLine], "/dead-letters", {"user_id": user, "limit": _LETTERS})),
    )
    may_write = visit.session.may_write
    plan, is_choice = None, False
    if may_write:
        try:
            plan = await _plan(visit, user)
        except (Refused, ServiceDown) as error:
            is_choice = isinstance(error, Refused) and error.kind == "nothing-to-roll-back-to"
            problem = problem or (None if is_choice else problem_view(as_problem(error)))
    retryable = next((each for each in trainings.items if each.may_retry), None)
    response = await visit.render(
        "user.html",
        user=user,
        current=current,
        changes=history.items,
        pager=pager(user_path(user), {}, cursor=cursor, following=history.next_cursor),
        trainings=trainings.items,
        underway=[each for each in trainings.items if each.is_underway],
        letters=letters.items if letters else (),
        away=parts.away,
        plan=plan,
        is_choice=is_choice,
        problem=problem,
        retryable=retryable if may_write else None,
        may_write=may_write,
        reason=visit.form.get("reason", "") if visit.request.method == "POST" else "",
    )
    if not (trainings.items or history.items or problem):
        response.status_code = HTTPStatus.NOT_FOUND
    return response


async def _roll_back(visit: Visit) -> Done:
    user, form, apis = _user(visit), visit.form, visit.apis
    body = {"to": form.text("to") or None, "reason": _reason(form, apis)}
    path = f"/users/{quoted(user)}/model/rollback"
    model = await apis.state.post(ModelAnswer, path, body, **_once(form))
    return Done(user_path(user), f"Rolled back to {model.reference}. Subscribers are notified.")


async def _withdraw(visit: Visit) -> Done:
    user, form, apis = _user(visit), visit.form, visit.apis
    path = f"/users/{quoted(user)}/model/withdraw"
    await apis.state.post(ChangeAnswer, path, {"reason": _reason(form, apis)}, **_once(form))
    return Done(user_path(user), "The model was withdrawn: the user has none now. Subscribers are notified.")


async def _plan(visit: Visit, user: str) -> ModelAnswer | ChangeAnswer | None:
    """Return what the rollback or withdrawal that is asked for would lead to, by a dry run."""
    apis, wanted = visit.apis, _wanted(visit)
    if wanted is None:
        return None
    verb, to = wanted
    path = f"/users/{quoted(user)}/model/{verb}"
    body: dict[str, JsonValue] = {"reason": _PREVIEW, "dry_run": True}
    if verb == "withdraw":
        return await apis.state.post(ChangeAnswer, path, body)
    return await apis.state.post(ModelAnswer, path, {**body, "to": to or None})


def _wanted(visit: Visit) -> tuple[str, str] | None:
    """Return what is to be previewed, and the target of a rollback: by the address, or by a form that was refused."""
    if visit.request.method == "POST":
        verb = visit.path.rpartition("/")[2]
        return (verb, visit.form.text("to")) if verb in _VERBS else None
    return next(((verb, visit.query[verb]) for verb in _VERBS if verb in visit.query), None)


async def _find_model(apis: Apis, user: str) -> ModelAnswer | None:
    try:
        return await apis.state.get(ModelAnswer, f"/users/{quoted(user)}/model")
    except Refused as error:
        if error.kind == "no-model":
            return None
        raise


def _once(form: Form) -> dict[str, str | None]:
    """Return what a write is bound to: done once, and only if the model is still the one that was shown."""
    return {name: form.text(name) or None for name in ("key", "generation")}


def _reason(form: Form, apis: Apis) -> str:
    reason = form.text("reason")
    return f"{reason}{apis.by}" if reason else ""


def _user(visit: Visit) -> str:
    user: str = visit.params["user"]
    return user
