"""The operators' route for the audit. Edge."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated

from fastapi import Query

from services.ops.audit.store import AuditStore
from services.ops.audit.views import AuditFilter, AuditView
from shared.contract.answers import END, Page
from shared.runtime.http import Cursor, Limit, Router, from_cursor, page_of


class _Wanted(AuditFilter):
    """Which entries, and how many of them."""

    limit: Limit = 50
    cursor: Cursor = None


def audit_router(audit: AuditStore) -> Router:
    router = Router()

    @router.get("/audit", tags=["audit"])
    async def list_audit(wanted: Annotated[_Wanted, Query()]) -> Page[AuditView]:
        """Who did what, why, and with which outcome; newest first."""
        found = await audit.list_audit(wanted, before=from_cursor(wanted.cursor, END), limit=wanted.limit + 1)
        return page_of(found, wanted.limit, attrgetter("number"))

    return router
