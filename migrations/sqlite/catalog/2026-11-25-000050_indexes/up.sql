-- Indexes of the tables of clients. Each is built on every shard, or on none.
CREATE TABLE tessera_indexes (
    table_name   TEXT NOT NULL,
    name         TEXT NOT NULL,
    -- Names of the columns, separated by commas.
    column_list  TEXT NOT NULL,
    -- 1 if rows of one shard key cannot have the same values in the columns.
    is_unique    INTEGER NOT NULL CHECK (is_unique IN (0, 1)),
    -- building, ready, undoing, failed or dropping.
    state        TEXT NOT NULL,
    -- Number of shards that have it, while it is being built.
    built        INTEGER NOT NULL CHECK (built >= 0),
    -- Why it waits, or has failed.
    reason       TEXT,
    -- Longest time in milliseconds for which writes of a shard may wait, and for which they have.
    pause_max_ms INTEGER NOT NULL CHECK (pause_max_ms >= 0),
    pause_ms     INTEGER,
    changed_at   TEXT NOT NULL,
    PRIMARY KEY (table_name, name)
) STRICT;
