-- Who may log in to Postgres? Run once, by the superuser, when the data volume is empty.
--
--   modelswap_owner        owns the database and applies the migrations; nothing else uses it
--   modelswap_state_login  what services.state logs in as; may do what modelswap_state may, and nothing else
--   modelswap_state        can not log in; the migrations say what it may do
--
-- To change a password later: ALTER ROLE … PASSWORD …, then the same in .env.

\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv state_password POSTGRES_STATE_PASSWORD

CREATE ROLE modelswap_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE modelswap_state NOLOGIN;
CREATE ROLE modelswap_state_login LOGIN PASSWORD :'state_password' IN ROLE modelswap_state;

ALTER DATABASE modelswap OWNER TO modelswap_owner;
REVOKE ALL ON DATABASE modelswap FROM PUBLIC;
GRANT CONNECT ON DATABASE modelswap TO modelswap_state_login;
