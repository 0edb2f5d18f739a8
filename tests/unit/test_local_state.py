"""What stays of private servers from one run to the next, and what do two runs at once share?"""

import stat
import threading

import pytest

from deploy.local.cache import cache_folder, made_once
from deploy.local.errors import LocalServersError
from deploy.local.lock import locked
from deploy.local.state import kept_state
from shared.runtime.ports import free_ports


def test_the_cache_is_where_the_user_says_then_where_caches_are(tmp_path):
    ours, users, home = tmp_path / "ours", tmp_path / "users", tmp_path / "home"
    environment = {"MODELSWAP_CACHE_DIR": str(ours), "XDG_CACHE_HOME": str(users), "HOME": str(home)}

    found = [cache_folder(dict(list(environment.items())[first:])) for first in range(3)]

    assert found == [ours, users / "modelswap", home / ".cache" / "modelswap"]


def test_a_cache_folder_that_cannot_be_made_is_passed_over(tmp_path):
    (tmp_path / "file").touch()
    environment = {"MODELSWAP_CACHE_DIR": str(tmp_path / "file" / "below"), "HOME": str(tmp_path)}

    assert cache_folder(environment) == tmp_path / ".cache" / "modelswap"


def test_what_is_in_the_cache_is_made_once_however_many_ask(tmp_path):
    folder = tmp_path / "cache" / "thing"
    makers = []

    def make(draft):
        makers.append(draft)
        (draft / "content").write_text("whole")

    asking = [threading.Thread(target=made_once, args=(folder, make, print)) for _ in range(4)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()

    assert len(makers) == 1
    assert (folder / "content").read_text() == "whole"


def test_what_could_not_be_made_whole_is_not_in_the_cache(tmp_path):
    folder = tmp_path / "thing"

    def fail(draft):
        (draft / "half").touch()
        raise LocalServersError("the mirror is away")

    with pytest.raises(LocalServersError, match="the mirror is away"):
        made_once(folder, fail, print)

    assert [each.name for each in tmp_path.iterdir()] == ["thing.lock"]


def test_what_a_killed_run_left_half_made_is_thrown_away(tmp_path):
    (tmp_path / "thing.draft").mkdir()
    (tmp_path / "thing.draft" / "half").touch()

    made_once(tmp_path / "thing", lambda draft: (draft / "whole").touch(), print)

    assert [each.name for each in (tmp_path / "thing").iterdir()] == ["whole"]


def test_a_kept_state_has_the_same_ports_and_password_again(tmp_path):
    folder = tmp_path / "state"

    with kept_state(folder, print) as first:
        pass
    with kept_state(folder, print) as second:
        pass

    assert (second.ports, second.password) == (first.ports, first.password)


def test_a_kept_password_is_for_its_owner_only(tmp_path):
    with kept_state(tmp_path / "state", print):
        pass

    assert stat.S_IMODE((tmp_path / "state" / "servers.json").stat().st_mode) == 0o600


def test_a_kept_state_whose_port_is_taken_says_which(tmp_path):
    folder = tmp_path / "state"
    with kept_state(folder, print) as state:
        (folder / "lock").unlink()  # so that the ports alone are in the way

        with (
            pytest.raises(LocalServersError, match=f"port {state.ports.postgres}, postgres's"),
            kept_state(folder, print),
        ):
            pass


def test_no_two_runs_have_a_port_in_common():
    with free_ports(5) as one, free_ports(5) as two:
        assert len({*one, *two}) == 10


def test_a_lock_is_waited_for_and_taken_when_it_is_free(tmp_path):
    waiting = threading.Event()
    taken = threading.Event()

    def take():
        with locked(tmp_path / "lock", waiting=waiting.set):
            taken.set()

    with locked(tmp_path / "lock", waiting=lambda: None):
        other = threading.Thread(target=take)
        other.start()
        assert waiting.wait(10)
        assert not taken.is_set()
    other.join()

    assert taken.is_set()


def test_a_lock_that_stays_taken_is_given_up(tmp_path):
    with (
        locked(tmp_path / "lock", waiting=lambda: None),
        pytest.raises(TimeoutError),
        locked(tmp_path / "lock", waiting=lambda: None, timeout_seconds=0),
    ):
        pass
