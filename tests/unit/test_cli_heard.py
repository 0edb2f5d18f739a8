"""Which events are meant, and how one is passed on."""

import pytest

from services.cli.events.heard import Heard, check_public, describe, is_of
from services.cli.problem import Problem
from shared.contract.events import (
    EVENTS,
    EVENTS_EXCHANGE,
    ModelActivated,
    ModelReady,
)
from shared.contract.identity import ModelRef
from shared.contract.values import Evidence
from shared.runtime.broker import Delivery

MODEL = ModelRef("demo", "ann", "a" * 64)
HEARD = Heard(
    Delivery(
        queue="",
        tag=1,
        exchange=EVENTS_EXCHANGE,
        routing_key="model.activated.v1",
        headers={"ce-specversion": "1.0", "ce-id": "1", "ce-subject": 'jürgen "j" 100%'},
        content_type="application/json",
        body=b'{"user_id": "ann"}',
    )
)


@pytest.mark.parametrize(
    ("types", "are_meant"),
    [
        ([], True),
        (["model.activated"], True),
        (["model.activated.v1"], True),
        (["model.ready", "model.*"], True),
        (["model.#"], True),
        (["model.*.v1"], True),
        (["model.activated.*"], True),
        (["model.activated.v2"], False),
        (["model.ready"], False),
    ],
)
def test_an_event_is_of_the_types_that_mean_it(types, are_meant):
    assert is_of(types, "model.activated.v1") is are_meant


@pytest.mark.parametrize("kind", ["model.activate", "modle.*", "training.succeeded", "*.v2", ""])
def test_a_name_of_no_public_event_is_refused(kind):
    with pytest.raises(Problem, match="no public event is called"):
        check_public([kind])


def test_each_public_event_has_its_name_and_patterns():
    check_public([key.rpartition(".")[0] for key, event in EVENTS.items() if event.exchange == EVENTS_EXCHANGE])
    check_public(["*", "#", "model.*", "model.#", "model.*.v1", "model.activated.v1"])


def test_over_http_a_header_is_plain_ascii():
    assert HEARD.http_headers() == {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-subject": "j%C3%BCrgen%20%22j%22%20100%25",
        "content-type": "application/json",
    }


def test_as_one_document_it_holds_its_data():
    assert HEARD.document()["data"] == {"user_id": "ann"}


def test_an_event_is_described_in_a_few_words():
    evidence = Evidence(shape="version", checks=("exists", "schema"), seconds=1.25)
    activated = ModelActivated(
        training_id="t1", user_id="ann", generation=2, ref="00000000-0000-0000-0000-000000000001", model=MODEL
    )

    assert describe(ModelReady(training_id="t1", model=MODEL, evidence=evidence)) == f"{MODEL} (exists, schema; 1.2 s)"
    assert describe(activated) == f"{MODEL} is current, generation 2 (training)"
