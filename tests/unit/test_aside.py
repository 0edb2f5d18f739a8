"""What is set aside harms no other item, is shown, and is tried again ever more rarely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from shared.contract.errors import DependencyDown, PermanentError
from shared.runtime.aside import SetAside


class Slow(DependencyDown):
    may_concern_one = True


@dataclass
class Loop:
    """A loop over items, some of which fail; its clock stands still until it is moved."""

    errors: dict[str, Exception] = field(default_factory=dict)
    now: float = 0.0
    tried: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.aside: SetAside[str] = SetAside("test", first_seconds=10, longest_seconds=60, clock=lambda: self.now)

    async def work(self, item: str) -> None:
        self.tried.append(item)
        if error := self.errors.get(item):
            raise error

    async def work_on_all(self, items: Sequence[str]) -> None:
        for item in items:
            await self.work(item)

    async def round(self, items: str = "abc") -> DependencyDown | None:
        return (await self.aside.each(items, self.work, key=str)).down

    def shown(self) -> float | None:
        return REGISTRY.get_sample_value("modelswap_set_aside", {"loop": "test"})


@pytest.mark.parametrize("error", [PermanentError("bad"), AssertionError(), KeyError("x")], ids=repr)
async def test_an_item_that_fails_harms_no_other_and_is_shown(error: Exception):
    loop = Loop({"a": error})

    with capture_logs() as logs:
        done = await loop.aside.each("abc", loop.work, key=str)

    assert loop.tried == ["a", "b", "c"]
    assert (done.set_aside, done.down) == ([("a", error)], None)
    assert loop.shown() == 1
    assert [(line["event"], line["item"], line["log_level"]) for line in logs] == [("item.set_aside", "a", "error")]
    assert loop.aside.check() == f"1 set aside, the last for {getattr(error, 'code', 'unexpected')}"


async def test_an_items_pauses_double_up_to_a_limit():
    loop = Loop({"a": PermanentError("bad")})
    tried_at = []
    for loop.now in range(300):
        before = len(loop.tried)
        await loop.round("a")
        tried_at += [loop.now] * (len(loop.tried) - before)

    assert tried_at == [0, 10, 30, 70, 130, 190, 250]


async def test_an_item_that_passes_is_set_aside_no_more():
    loop = Loop({"a": PermanentError("bad")})
    await loop.round()
    loop.errors.clear()
    loop.now = 10

    await loop.round()

    assert (loop.shown(), loop.aside.check(), loop.aside.error_of("a")) == (0, None, None)


async def test_a_dependency_that_is_down_for_all_is_no_items_fault():
    loop = Loop({item: DependencyDown("away") for item in "abc"})

    assert str(await loop.round()) == "away"

    assert loop.tried == ["a", "b"]
    assert (loop.shown(), loop.aside.waiting()) == (0, [])


async def test_what_a_dependency_refuses_to_one_alone_is_its_own_fault():
    loop = Loop({"b": Slow("500")})

    assert await loop.round() is None

    assert (loop.tried, loop.shown()) == (["a", "b", "c"], 1)


async def test_an_item_with_a_dependency_down_comes_last_next_time():
    loop = Loop({item: DependencyDown("away") for item in "ab"})

    downs = [await loop.round("abcd") for _ in range(2)]

    assert loop.tried == ["a", "b", "c", "d", "a", "b"]
    assert None not in downs


@pytest.mark.parametrize("error", [PermanentError("bad"), Slow("500")], ids=repr)
async def test_together_means_alone_once_it_fails(error: Exception):
    loop = Loop({"b": error})

    done = [await loop.aside.together("abc", loop.work_on_all, key=str) for _ in range(2)]

    assert [each.set_aside for each in done] == [[("b", loop.errors["b"])], ()]
    assert Counter(loop.tried) == {"a": 3, "b": 2, "c": 2}


async def test_what_is_down_for_all_together_is_not_tried_alone():
    loop = Loop({"a": DependencyDown("away")})

    done = await loop.aside.together("abc", loop.work_on_all, key=str)

    assert (done.down, loop.tried, loop.aside.waiting()) == (loop.errors["a"], ["a"], [])


async def test_the_one_failure_among_concurrent_items_is_its_own():
    loop = Loop()

    loop.aside.settle(dict.fromkeys("ab", DependencyDown("away")))
    while_down = loop.aside.waiting()
    loop.aside.settle({"b": DependencyDown("away"), "c": None})

    assert (while_down, loop.aside.waiting(), loop.shown()) == ([], ["b"], 1)


async def test_an_item_that_is_not_met_again_is_forgotten():
    loop = Loop({"a": PermanentError("bad"), "b": PermanentError("bad")})
    await loop.round()
    loop.aside.keep_only(["a"])
    before = loop.shown()
    loop.now = 10_000

    assert (before, loop.shown()) == (1, 0)


async def test_what_is_said_counts_only_items_that_are_still_met():
    loop = Loop({"a": PermanentError("bad")})
    await loop.round("a")
    loop.now = 10_000
    loop.errors = {"b": PermanentError("bad")}
    await loop.round("b")

    assert loop.aside.check() == "1 set aside, the last for permanent"
