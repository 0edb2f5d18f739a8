"""The pipelines that are compared: what their processes run, and how their rows are written and found. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from tests.bench.peers.common import statements


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline."""

    name: str
    #: By role, what follows ``python -m``.
    processes: Mapping[str, Sequence[str]]
    #: Registers trainings: arrays of ids, users and destinations.
    register: Sequence[str]
    #: Which of the users $1 have a model. A join, because `= ANY($1)` compares each row with each user.
    committed: str
    #: When the trainings $1 were committed, as Postgres stamped it.
    commits: str
    #: Its tables, where the migrations do not make them.
    schema: str = ""
    #: The libraries that it needs beyond the product's own.
    needs: Sequence[str] = ()

    def missing(self) -> list[str]:
        """Return the libraries that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


def _peer(name: str, prefix: str, processes: Mapping[str, Sequence[str]], needs: Sequence[str] = ()) -> Pipeline:
    return Pipeline(
        name=name,
        processes=processes,
        register=(
            f"""INSERT INTO {prefix}_trainings (training_id, user_id)
            SELECT t, u FROM unnest($1::text[], $2::text[], $3::text[]) AS x (t, u, d)""",
        ),
        committed=f"SELECT user_id FROM {prefix}_models JOIN unnest($1::text[]) AS wanted (user_id) USING (user_id)",
        commits=f"""SELECT training_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
            FROM {prefix}_models WHERE training_id = ANY($1)""",
        schema=statements(prefix).schema,
        needs=needs,
    )


def _by_role(module: str) -> dict[str, tuple[str, str]]:
    return {role: (module, role) for role in ("receiver", "extractor", "state")}


_TASKIQ: Final = ("taskiq", "worker", "--workers", "1", "--max-async-tasks", "64", "--log-level", "WARNING")
_CELERY: Final = ("celery", "-A", "tests.bench.peers.celery", "worker", "--loglevel", "WARNING")
#: What its workers say to each other is no part of the work.
_SILENT: Final = ("--without-gossip", "--without-mingle", "--without-heartbeat")

MODELSWAP: Final = Pipeline(
    name="modelswap",
    processes={
        "receiver": ("services.receiver",),
        "extractor": ("tests.bench.instant",),
        "state": ("services.state",),
    },
    register=(
        """INSERT INTO state.users (user_id, next_generation)
        SELECT u, 2 FROM unnest($1::text[], $2::text[], $3::text[]) AS x (t, u, d)""",
        """INSERT INTO state.trainings (ref, training_id, user_id, generation, destination, trigger_word)
        SELECT gen_random_uuid(), t, u, 1, d, 'TOK' FROM unnest($1::text[], $2::text[], $3::text[]) AS x (t, u, d)""",
    ),
    committed="SELECT user_id FROM state.user_models JOIN unnest($1::text[]) AS wanted (user_id) USING (user_id)",
    commits="""SELECT training_id, extract(epoch FROM pg_xact_commit_timestamp(m.xmin))::float8 AS at
        FROM state.user_models m JOIN state.trainings USING (ref) WHERE training_id = ANY($1)""",
)
PLAIN: Final = _peer("plain", "plain", _by_role("tests.bench.peers.plain"))
FASTSTREAM: Final = _peer("FastStream", "faststream", _by_role("tests.bench.peers.faststream"), needs=["faststream"])
TASKIQ: Final = _peer(
    "taskiq",
    "taskiq",
    {
        "receiver": ("tests.bench.peers.taskiq",),
        "extractor": (*_TASKIQ, "tests.bench.peers.taskiq:extracting"),
        "state": (*_TASKIQ, "tests.bench.peers.taskiq:keeping"),
    },
    needs=["taskiq", "taskiq_aio_pika"],
)
CELERY: Final = _peer(
    "Celery",
    "celery",
    {
        "receiver": ("tests.bench.peers.celery",),
        "extractor": (*_CELERY, *_SILENT, "--hostname", "extractor@bench", "-Q", "celery.completed"),
        "state": (*_CELERY, *_SILENT, "--hostname", "state@bench", "-Q", "celery.ready"),
    },
    needs=["celery", "psycopg"],
)
#: modelswap first: the others are compared with it.
PIPELINES: Final = (MODELSWAP, PLAIN, FASTSTREAM, TASKIQ, CELERY)
