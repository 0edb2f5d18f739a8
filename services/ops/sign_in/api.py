"""The route that makes sign-in codes for the console. Edge."""

from __future__ import annotations

from http import HTTPStatus

import structlog

from services.ops.sign_in.codes import PATH, NotAPersons, SignInCode
from services.ops.sign_in.store import SignInCodes
from shared.runtime.description import raises
from shared.runtime.http import AskersToken, Router

log = structlog.get_logger()


def sign_in_router(codes: SignInCodes) -> Router:
    router = Router()

    @router.post(PATH, tags=["console"], status_code=HTTPStatus.CREATED)
    @raises(NotAPersons)
    async def make_sign_in_code(token: AskersToken) -> SignInCode:
        """
        Make a code that signs in to the console once, within ten minutes, as the token of this request.

        The link is `/sign-in?code=` and the code. Who opens it presses a button, so that a preview of the link does not
        use it up. A token that is no longer in `MODELSWAP_OPS_TOKENS` ends its codes.
        """
        if token.caller.may_speak_for_others:
            raise NotAPersons("this token is a service's: only an operator's or a reader's signs in to the console")
        made = await codes.make(token)
        log.info("console.code_made", name=token.caller.name, expires_at=made.expires_at.isoformat())
        return made

    return router
