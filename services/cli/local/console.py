"""One-time links that sign in to the console. Edge."""

from __future__ import annotations

import webbrowser
from urllib.parse import urlencode

from services.cli.client import Operators
from services.cli.local.stack import Environment, Plan, overridden
from services.cli.output import tell
from services.ops.sign_in.codes import PATH, SignInCode
from shared.contract.errors import ModelswapError
from shared.runtime.settings import OpsClientSettings, reveal
from shared.runtime.tokens import read_token


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


def show(link: str, *, only_print: bool) -> None:
    """Open *link* in a browser, or print it where there is none."""
    if only_print:
        print(link)
    elif webbrowser.open(link):
        tell("opened in your browser: press the button there. The link works once, for ten minutes.")
    else:
        tell("there is no browser here: open this yourself. It works once, for ten minutes.")
        print(link)
