"""Choose the Replicate that `modelswap up` uses, and say why. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from services.cli.local.stack import SIMULATOR, Environment, is_given, url_of
from shared.runtime.settings import PREFIX, ReceiverSettings

_URL: Final = "REPLICATE_API_URL"
_AUTH: Final = "REPLICATE_API_TOKEN"
_DEFAULT_URL: Final = ReceiverSettings.model_fields["replicate_api_url"].default


@dataclass(frozen=True, slots=True)
class Choice:
    """The Replicate to use."""

    is_simulated: bool
    #: Which one, why, and how to get the other one.
    why: str


def choose_replicate(environment: Environment, *, embedded: bool, simulator: bool | None) -> Choice:
    """
    Choose by the option *simulator*; if that is None, by *environment*.

    With *embedded* servers, choose the simulator unless there is a token for another Replicate. A terminal with the
    exported settings of an earlier run has the simulator's own token; the address tells the two apart.
    """
    ours = url_of(environment, SIMULATOR)
    given = environment.get(PREFIX + _URL)
    if simulator is None and embedded:
        if given == ours:
            return _simulated(ours, f"since {PREFIX}{_URL} is its address")
        if not is_given(environment, _AUTH):
            unused = f"; {PREFIX}{_URL} is not used" if given else ""
            return _simulated(ours, f"since {PREFIX}{_AUTH} is not set{unused}")
        return _given(given, f"since {PREFIX}{_AUTH} is set")
    if simulator:
        return _simulated(ours, "as --simulator says")
    return _given(given, "as --no-simulator says" if simulator is False else "since --embedded is not given")


def _simulated(url: str, reason: str) -> Choice:
    then = f"set {PREFIX}{_AUTH} and {PREFIX}PUBLIC_URL, unset {PREFIX}{_URL}, and add --no-simulator"
    return Choice(is_simulated=True, why=f"the simulator at {url}, {reason}. For the real one {then}")


def _given(url: str | None, reason: str) -> Choice:
    address = urlsplit(url or _DEFAULT_URL)
    # Without the user and password that it may have.
    where = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    return Choice(is_simulated=False, why=f"{where}, {reason}. For the simulator add --simulator")
