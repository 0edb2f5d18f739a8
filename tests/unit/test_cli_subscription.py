"""What is bound, and how an event is passed on."""

import pytest

from services.cli.events.listen import describe
from services.cli.events.subscription import Heard, is_of, public
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
    ("kind", "routing_key"),
    [
        ("model.activated", "model.activated.*"),
        ("model.activated.v1", "model.activated.v1"),
        ("model.*.v1", "model.*.v1"),
        ("model.#", "model.#"),
    ],
)
def test_a_type_without_a_version_means_every_version(kind, routing_key):
    assert public([kind]) == [(EVENTS_EXCHANGE, routing_key)]


@pytest.mark.parametrize(
    ("types", "are_meant"),
    [
        ([], True),
        (["model.activated"], True),
        (["model.activated.v1"], True),
        (["model.ready", "model.*"], True),
        (["model.#"], True),
        (["model.activated.v2"], False),
        (["model.ready"], False),
    ],
)
def test_an_event_of_the_log_is_of_the_same_types(types, are_meant):
    assert is_of(types, "model.activated.v1") is are_meant


def test_no_type_means_all():
    assert public([]) == [(EVENTS_EXCHANGE, "#")]


def test_every_public_event_is_heard_under_its_name():
    names = [key.rpartition(".")[0] for key, event in EVENTS.items() if event.exchange == EVENTS_EXCHANGE]

    assert [key for _, key in public(names)] == [f"{name}.*" for name in names]


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
