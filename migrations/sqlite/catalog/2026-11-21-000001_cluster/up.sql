-- The catalog of an embedded cluster: one row, replaced as a whole by compare-and-set on `epoch`.
CREATE TABLE tessera_cluster (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    cluster_id TEXT    NOT NULL,
    epoch      INTEGER NOT NULL CHECK (epoch >= 1),
    keyspace   TEXT    NOT NULL,
    hash       TEXT    NOT NULL,
    -- Of the keyspace: the seed of a hash.
    parameters TEXT    NOT NULL CHECK (json_valid(parameters)),
    slots      INTEGER NOT NULL,
    placement  TEXT    NOT NULL,
    shards     TEXT    NOT NULL CHECK (json_valid(shards)),
    ranges     TEXT    NOT NULL CHECK (json_valid(ranges)),
    created_at TEXT    NOT NULL,
    -- 0 until every shard's file has been made: after that a missing file is a loss, not a beginning.
    ready      INTEGER NOT NULL CHECK (ready IN (0, 1))
) STRICT;
