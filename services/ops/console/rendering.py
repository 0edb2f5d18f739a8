"""The console's templates and static files, as the package has them: read once for each process."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from services.ops.console.views import formats
from services.ops.console.views.bodies import is_small
from services.ops.console.views.filters import address
from services.ops.console.views.trainings import progress_of, training_path, user_path
from services.ops.letters.letter import indented

_HERE: Final = Path(__file__).parent


class Asset(NamedTuple):
    """A static file."""

    content: bytes
    content_type: str
    digest: str


@cache
def assets() -> Mapping[str, Asset]:
    return {file.name: _asset(file) for file in (_HERE / "static").iterdir() if file.is_file()}


@cache
def templates() -> Environment:
    """Return the templates. All that is put into them is escaped, and what is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=formats.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS, is_small=is_small, indented=indented)
    environment.globals.update(asset=_address_of, new_key=_new_key, since=_since)
    environment.globals.update(address=address, training_path=training_path, user_path=user_path)
    environment.globals.update(progress_of=progress_of)
    return environment


def _asset(file: Path) -> Asset:
    content = file.read_bytes()
    kind = mimetypes.guess_type(file.name)[0] or "text/plain"
    return Asset(content, kind, sha256(content).hexdigest()[:16])


def _address_of(name: str) -> str:
    return f"/static/{name}?v={assets()[name].digest}"


@pass_context
def _since(context: Context, moment: datetime) -> str:
    seconds: float = (context["now"] - moment).total_seconds()
    return formats.ago(seconds)


def _new_key() -> str:
    """Return a new idempotency key, so that a form that is sent twice is done once."""
    return secrets.token_urlsafe(16)
