"""
Many trainings and dead letters, made by Postgres: what a busy day or a year leaves behind, for screens and benches.

The same numbers make the same rows. Every user has three trainings: the first gave a model that was replaced, the
second went wrong or was overtaken, the third gave today's model or still runs.
"""

from __future__ import annotations

from typing import Final

from tests.state import connected

#: So many users' last trainings still run.
RUNNING: Final = 8

_TRAININGS: Final = """
    CREATE TEMPORARY TABLE crowd ON COMMIT DROP AS
        SELECT n, u, g, 'crowd-' || u AS user_id, md5('crowd' || n)::uuid AS ref,
               't' || substr(md5('t' || n), 1, 24) AS training_id, 'acme/crowd-' || u AS destination,
               'acme/crowd-' || u || ':' || encode(sha256(n::text::bytea), 'hex') AS model,
               CASE WHEN g = 1 AND runs THEN 'active' WHEN g = 1 THEN 'replaced' WHEN g = 3 AND runs THEN 'running'
                    WHEN g = 3 THEN 'active'
                    ELSE (ARRAY['superseded', 'failed', 'failed', 'canceled', 'unverified'])[1 + dice % 5] END AS stage,
               ended - make_interval(secs => 900 + dice % 600) AS requested_at, ended AS completed_at,
               ended + interval '800 milliseconds' AS reported_at,
               -- Most swaps come within seconds, a few after minutes.
               ended + make_interval(secs => 1.2 + (dice % 100) / 40.0 + CASE WHEN dice % 97 = 0 THEN 90 ELSE 0 END)
                   AS at
        FROM (
            SELECT n, (n - 1) % {users} AS u, 1 + (n - 1) / {users} AS g, hashint4(n) & 65535 AS dice,
                   (n - 1) % {users} >= {users} - {running} AS runs,
                   now() - make_interval(secs => {seconds} * (1 - n::float8 / {trainings})
                                                 * (0.6 + 0.4 * (hashint4(n) & 1023) / 1023)) AS ended
            FROM generate_series(1, {trainings}) AS n
        ) AS drawn;
    INSERT INTO state.users (user_id, next_generation) SELECT DISTINCT user_id, 4 FROM crowd;
    INSERT INTO state.trainings
        (ref, training_id, user_id, generation, destination, trainer, trainer_version, trigger_word, total_steps, stage,
         step, progress, progress_source, progress_at, model, failure_code, failure_reason, requested_at, started_at,
         completed_at, reported_at, updated_at, webhook_missed)
        SELECT ref, training_id, user_id, g, destination, 'ostris/flux-dev-lora-trainer:' || repeat('e', 64), NULL,
               'TOK', 1000, stage, CASE WHEN ended THEN 1000 ELSE 10 * (n % 90) END,
               CASE WHEN ended THEN 99 ELSE n % 90 END, 'log', now(),
               CASE WHEN stage IN ('active', 'replaced', 'superseded') THEN model END,
               CASE stage WHEN 'failed' THEN 'failed' WHEN 'canceled' THEN 'canceled'
                    WHEN 'unverified' THEN 'no_version' END,
               CASE stage WHEN 'failed' THEN 'CUDA out of memory. Tried to allocate 20.00 MiB'
                    WHEN 'canceled' THEN 'canceled' WHEN 'unverified' THEN 'the output names no model version' END,
               requested_at, requested_at + interval '20 seconds', CASE WHEN ended THEN completed_at END,
               CASE WHEN ended THEN reported_at END, CASE WHEN ended THEN at ELSE now() END,
               CASE WHEN ended THEN n % 37 = 0 END
        FROM (SELECT *, stage <> 'running' AS ended FROM crowd) AS known
        ORDER BY n;
    INSERT INTO state.model_history
        (user_id, generation, ref, model, trigger_word, cause, previous_model, actor, reason, at, reported_at)
        SELECT user_id, g, ref, model, 'TOK', 'training',
               CASE WHEN g = 3
                    THEN 'acme/' || user_id || ':' || encode(sha256((n - 2 * {users})::text::bytea), 'hex') END,
               'state', 'training succeeded', at, reported_at
        FROM crowd WHERE stage IN ('active', 'replaced');
    INSERT INTO state.user_models (user_id, generation, ref, model, trigger_word, activated_at)
        SELECT user_id, g, ref, model, 'TOK', at FROM crowd WHERE stage = 'active';
    INSERT INTO state.model_parts (part, name)
        SELECT state.parts_of(destination), destination FROM crowd WHERE g = 1 ON CONFLICT DO NOTHING;
"""
_LETTERS: Final = """
    INSERT INTO ops.letters
        (digest, queue, exchange, routing_key, content_type, headers, body, event_type, event_id, training_id, user_id,
         error_code, error_class, error_text, traceback, attempts, first_failed_at, last_failed_at, archived_at,
         fingerprint, status)
        SELECT 'crowd-' || n, queue, 'modelswap.training', event, 'application/json',
               json_build_object('ce-id', 'crowd-' || n, 'ce-type', 'dev.modelswap.' || event, 'ce-specversion', '1.0',
                                 'ce-source', 'receiver', 'ce-time', at),
               convert_to(json_build_object('training_id', training_id, 'output',
                                            json_build_object('weights', 'https://example.com/' || n || '.tar'))::text,
                          'UTF8'),
               event, 'crowd-' || n, training_id, 'crowd-' || (n % 997), code, class,
               code || ': ' || words || CASE WHEN g > 4 THEN ' (cause ' || g || ')' ELSE '' END,
               E'Traceback (most recent call last):\\n  File "services/extractor/handler.py", line 88, in handle\\n'
                   || class || ': ' || words,
               1 + dice % 9, at, at, at, substr(md5('cause ' || g), 1, 16),
               CASE WHEN dice % 10 < 3 THEN 'open' WHEN dice % 10 < 9 THEN 'resolved' ELSE 'dropped' END
        FROM (
            SELECT *, now() - make_interval(secs => {seconds} * (1 - n::float8 / {letters})) AS at,
                   CASE WHEN g % 3 = 2 THEN 'modelswap.state' ELSE 'modelswap.extractor' END AS queue,
                   CASE WHEN g % 3 = 2 THEN 'model.ready.v1' ELSE 'training.succeeded.v1' END AS event,
                   't' || substr(md5('t' || n), 1, 24) AS training_id,
                   (ARRAY['no_version', 'bad_version_format', 'unknown_training', 'ambiguous',
                          'unexpected'])[1 + g % 5]
                       AS code,
                   (ARRAY['NoVersion', 'BadVersion', 'UnknownTraining', 'Ambiguous', 'KeyError'])[1 + g % 5] AS class,
                   (ARRAY['the output has no version', 'the version has 40 hex digits, not 64',
                          'no such training is registered', 'two versions are possible', '''version'''])[1 + g % 5]
                       AS words
            FROM (
                SELECT n, hashint4(n) & 65535 AS dice,
                       -- A few causes have most of the dead letters; each has one.
                       CASE WHEN n <= {groups} THEN n - 1
                            ELSE floor({groups} * power((hashint4(n) & 65535) / 65536.0, 4))::int END AS g
                FROM generate_series(1, {letters}) AS n
            ) AS drawn
        ) AS known
        ORDER BY n;
"""
_REPLAYS: Final = """
    INSERT INTO ops.replays
        (id, created_at, actor, reason, selection, rate_per_second, steps, stop_share, fingerprints, newest_letter,
         status, started_at, ended_at)
        SELECT md5('replay ' || n)::uuid, at, 'olga', 'parser fixed in 1.4.' || n, '{{"letters": []}}', 10,
               ARRAY[1, {replayed}], 0.2,
               ARRAY(SELECT DISTINCT fingerprint FROM ops.letters
                     WHERE number > (n - 1) * {replayed} AND number <= n * {replayed}),
               n * {replayed}, 'done', at, at + interval '1 minute'
        FROM (SELECT n, now() - make_interval(secs => {seconds} * (1 - n / 40.0)) AS at
              FROM generate_series(1, 39) AS n) AS known;
    INSERT INTO ops.replay_letters
        (replay_id, position, letter, training_id, predicted, outcome, detail, user_id, stage, generation, model,
         previous, sent_at, ended_at)
        SELECT r.id, n, (r.number - 1) * {replayed} + n, 't' || substr(md5('t' || n), 1, 24), 'swapped', 'swapped',
               'user crowd-' || n || ': no model → acme/crowd-' || n, 'crowd-' || n, 'active', 1,
               'acme/crowd-' || n || ':' || encode(sha256(n::text::bytea), 'hex'), NULL, r.started_at, r.ended_at
        FROM ops.replays AS r, generate_series(1, {replayed}) AS n;
    INSERT INTO ops.audit (at, actor, action, target, reason, outcome)
        SELECT now() - make_interval(secs => {seconds} * (1 - n::float8 / {letters})),
               (ARRAY['olga', 'omar', 'ops'])[1 + n % 3],
               (ARRAY['replay.started', 'replay.done', 'dead_letter.dropped', 'model.rolled_back'])[1 + n % 4],
               (ARRAY['replay ' || md5(n::text)::uuid, 'dead letter ' || n, 'user crowd-' || n])[1 + n % 3],
               'parser fixed in 1.4.' || n % 100, n % 7 || ' done, 0 failed'
        FROM generate_series(1, {letters}) AS n;
"""


async def fill(database_url: str, *, trainings: int, letters: int, groups: int, days: float = 30) -> None:
    """
    Store so many *trainings* (a third as many users) and *letters* of the last *days* in a database without any, and
    replays of these letters and as many lines of the audit.

    *database_url* is that of a superuser: the rows fit together, so neither triggers nor foreign keys need to look.
    """
    numbers = {
        "users": trainings // 3,
        "trainings": trainings // 3 * 3,
        "running": RUNNING,
        "letters": letters,
        "groups": groups,
        "replayed": max(1, letters // 40),
        "seconds": int(days * 24 * 3600),
    }
    async with connected(database_url) as connection:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(_TRAININGS.format(**numbers))
            if letters:
                await connection.execute(_LETTERS.format(**numbers))
                await connection.execute(_REPLAYS.format(**numbers))
        await connection.execute("VACUUM ANALYZE")
