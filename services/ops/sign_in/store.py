"""The table of sign-in codes. Its SQL, in schema `ops`. Edge."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.ops.session import Session
from services.ops.sign_in.codes import CODE_BYTES, LASTS, SignInCode, digest_of, maker_of, proof_of
from shared.runtime.postgres import Connection, Pool
from shared.runtime.tokens import Token

_PRUNE: Final = "DELETE FROM ops.sign_in_codes WHERE expires_at < clock_timestamp()"
_ADD: Final = """
    INSERT INTO ops.sign_in_codes (digest, proof, expires_at) VALUES ($1, $2, clock_timestamp() + $3)
    RETURNING expires_at
"""
# Of two who send the same code at once, one deletes it.
_TAKE: Final = """
    DELETE FROM ops.sign_in_codes WHERE digest = $1 RETURNING proof, expires_at > clock_timestamp() AS is_valid
"""


class SignInCodes(Session):
    """Codes that are valid on every replica of ops."""

    def __init__(self, pool: Pool, tokens: Sequence[Token], *, lasts: timedelta = LASTS) -> None:
        """*tokens* are those that sign in; a code is valid as long as *lasts*."""
        super().__init__(pool)
        self._tokens = {token.secret: token for token in tokens}
        self._lasts = lasts

    async def make(self, token: Token) -> SignInCode:
        """Make a code that stands for *token*."""
        code = secrets.token_urlsafe(CODE_BYTES)

        async def work(connection: Connection) -> SignInCode:
            await connection.execute(_PRUNE)
            expires_at = await connection.fetchval(_ADD, digest_of(code), proof_of(code, token.secret), self._lasts)
            return SignInCode(code=code, expires_at=expires_at)

        return await self._transaction(work)

    async def redeem(self, code: str) -> Token | None:
        """Use *code* up; return the token that it stands for, or None if it is not valid."""
        for row in await self._fetch(_TAKE, digest_of(code)):
            secret = maker_of(code, row["proof"], list(self._tokens)) if row["is_valid"] else None
            return None if secret is None else self._tokens[secret]
        return None
