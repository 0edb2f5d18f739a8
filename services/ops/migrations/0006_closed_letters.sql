-- Why a dead letter is resolved that no replay resolved; empty otherwise.

ALTER TABLE ops.letters ADD COLUMN status_reason text NOT NULL DEFAULT '';
GRANT UPDATE (status_reason) ON ops.letters TO modelswap_ops;

-- As before; and a reason ends with the status that it explains, also where the version before changes the status.
CREATE OR REPLACE FUNCTION ops.guard_letters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (new.number, new.digest, new.queue, new.exchange, new.routing_key, new.content_type, new.headers::text, new.body)
            IS DISTINCT FROM
           (old.number, old.digest, old.queue, old.exchange, old.routing_key, old.content_type, old.headers::text, old.body)
        THEN
            RAISE EXCEPTION 'what letter % was can not be changed', old.number USING ERRCODE = '23514';
        END IF;
        IF new.status <> old.status THEN
            new.status_at := clock_timestamp();
            IF new.status_reason = old.status_reason THEN
                new.status_reason := '';
            END IF;
        END IF;
        RETURN new;
    END IF;
    IF old.status NOT IN ('resolved', 'dropped') THEN
        RAISE EXCEPTION 'letter % is not settled, so it stays', old.number USING ERRCODE = '23514';
    END IF;
    RETURN old;
END $$;
