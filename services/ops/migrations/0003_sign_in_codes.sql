-- One-time codes that sign a person in to the console. Neither the code nor the token can be computed from a row.
CREATE TABLE ops.sign_in_codes (
    -- SHA-256 of the code.
    digest     bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    -- HMAC-SHA256 of the code, with the secret of the token that made it.
    proof      bytea NOT NULL CHECK (octet_length(proof) = 32),
    expires_at timestamptz NOT NULL
);

CREATE INDEX sign_in_codes_by_expiry ON ops.sign_in_codes (expires_at);

GRANT SELECT, INSERT, DELETE ON ops.sign_in_codes TO modelswap_ops;
