-- Who may log in to Postgres? Run once, by the superuser, when the data volume is empty.
--
--   modelswap_owner        owns the database and applies the migrations; nothing else uses it
--   modelswap_state_login  what services.state logs in as; may do what modelswap_state may, and nothing else
--   modelswap_state        can not log in; the migrations say what it may do
--   modelswap_ops_login, modelswap_ops  the same for services.ops
--
-- To change a password later: ALTER ROLE … PASSWORD …, then the same in .env.

\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv state_password POSTGRES_STATE_PASSWORD
\getenv ops_password POSTGRES_OPS_PASSWORD

CREATE ROLE modelswap_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE modelswap_state NOLOGIN;
CREATE ROLE modelswap_state_login LOGIN PASSWORD :'state_password' IN ROLE modelswap_state;
CREATE ROLE modelswap_ops NOLOGIN;
CREATE ROLE modelswap_ops_login LOGIN PASSWORD :'ops_password' IN ROLE modelswap_ops;

ALTER DATABASE modelswap OWNER TO modelswap_owner;
REVOKE ALL ON DATABASE modelswap FROM PUBLIC;
-- By default every role may connect to every database, and make temporary tables there.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE modelswap TO modelswap_state_login, modelswap_ops_login;
