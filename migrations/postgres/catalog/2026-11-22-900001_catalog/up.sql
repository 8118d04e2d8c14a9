-- The catalog: one row, replaced as a whole by compare-and-set on `epoch`.
CREATE TABLE tessera_cluster (
    id                   BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    cluster_id           TEXT   NOT NULL,
    epoch                BIGINT NOT NULL CHECK (epoch >= 1),
    keyspace             TEXT   NOT NULL,
    hash                 TEXT   NOT NULL,
    parameters           TEXT   NOT NULL,
    slots                BIGINT NOT NULL,
    placement            TEXT   NOT NULL,
    shards               TEXT   NOT NULL,
    ranges               TEXT   NOT NULL,
    created_at           TEXT   NOT NULL,
    -- 0 until every shard was claimed: after that a database without its rows is a loss, not a beginning.
    ready                BIGINT NOT NULL CHECK (ready IN (0, 1)),
    replicas             BIGINT NOT NULL DEFAULT 0,
    timelines            TEXT   NOT NULL DEFAULT '{}',
    -- What session tokens are signed with, 16 bytes in hex. Never shown, never logged.
    secret               TEXT   NOT NULL,
    placement_parameters TEXT   NOT NULL DEFAULT '{}'
);

-- A table that is being made, or taken back, on every shard: written before the first shard is touched and removed
-- after the last, so that whoever starts next knows what to finish.
CREATE TABLE tessera_intents (
    name        TEXT NOT NULL PRIMARY KEY,
    state       TEXT NOT NULL CHECK (state IN ('make', 'undo')),
    declaration TEXT NOT NULL,
    at          TEXT NOT NULL
);

-- Grows whenever the tables have changed: routers look at it, and are told of it (NOTIFY tessera).
CREATE SEQUENCE tessera_tables_changed;
