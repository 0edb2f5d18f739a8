"""One-time links that sign in to the console. Edge."""

from __future__ import annotations

import subprocess
import webbrowser
from contextlib import ExitStack
from datetime import timedelta
from html import escape
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Final
from urllib.parse import urlencode

from services.cli.local.stack import Environment, Plan, overridden
from services.cli.operators.client import Operators
from services.cli.output import tell
from services.ops.sign_in.codes import LASTS, PATH, SignInCode
from shared.contract.errors import ModelswapError
from shared.runtime.settings import OpsClientSettings
from shared.runtime.settings_base import reveal
from shared.runtime.tokens import read_token

_REDIRECT: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}">'
    '<title>modelswap</title></head><body><p><a href="{link}">Sign in to the console</a></p></body></html>\n'
)
#: A program of its own, because the command ends now, and a browser may take long to start.
_REMOVE_LATER: Final = ("/bin/sh", "-c", 'sleep "$0"; rm -rf -- "$1"')


async def make_link(environment: Environment) -> str:
    """Return an address that signs in to the console once, within ten minutes."""
    settings = OpsClientSettings.load(environment)
    tokens = [read_token(entry) for entry in reveal(settings.ops_tokens)]
    # A service's token makes no link.
    token = next((each for each in tokens if not each.caller.may_speak_for_others), tokens[0])
    async with Operators(settings.ops_url, token.secret) as api:
        made = await api.post(SignInCode, f"/v1{PATH}")
    address = (settings.console_url or settings.ops_url).rstrip("/")
    return f"{address}/sign-in?{urlencode({'code': made.code})}"


async def console_address(everything: Plan) -> str:
    """Return the console's address of what runs here, with a link to sign in if one can be had."""
    address = everything.urls["ops"]
    try:
        link = await make_link(overridden(everything.environment, {"OPS_URL": address}))
    except ModelswapError as error:
        return f"{address}  # without a link to sign in: {error}"
    return f"{link}  # signs in once, within ten minutes"


def show(link: str, *, only_print: bool, lasts: timedelta = LASTS) -> None:
    """Open *link*, which *lasts* so long, in a browser, or print it where there is none."""
    if only_print:
        print(link)
    elif _open(link, lasts):
        tell("opened in your browser: press the button there. The link works once, for ten minutes.")
        tell("If no page appears, your browser may not read temporary files: modelswap console --print")
    else:
        tell("there is no browser here: open this yourself. It works once, for ten minutes.")
        print(link)


def _open(link: str, lasts: timedelta) -> bool:
    """
    Open *link* in a browser; return whether there is one.

    The browser is given the address of a file with a redirect, which only its owner can read: every user of the machine
    sees the arguments of a program. The file is removed when the link has expired.
    """
    with ExitStack() as unless_opened:
        folder = Path(mkdtemp(prefix="modelswap-"))
        unless_opened.callback(rmtree, folder)
        page = folder / "sign-in.html"
        page.touch(mode=0o600)
        page.write_text(_REDIRECT.format(link=escape(link)))
        if not webbrowser.open(page.as_uri()):
            return False
        unless_opened.pop_all()
    # In a session of its own, it outlives the terminal.
    subprocess.Popen(  # noqa: S603 (no shell reads the arguments)
        (*_REMOVE_LATER, str(lasts.total_seconds()), str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return True
