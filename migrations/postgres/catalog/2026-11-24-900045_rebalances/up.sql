-- Rebalances with the orders of the operator. No earlier version has stored one, so the table is made again.
DROP TABLE tessera_rebalances;
-- Lists of moves that bring the shards to a goal. The router that leads begins the moves one after another.
CREATE TABLE tessera_rebalances (
    id            TEXT NOT NULL PRIMARY KEY,
    -- slots, size, load, placement or drain.
    goal          TEXT NOT NULL,
    -- Orders of the operator while it goes on, then the way in which it has ended.
    state         TEXT NOT NULL,
    -- The moves, each with what has become of it, and what belongs to the goal: a placement, or a shard.
    plan          TEXT NOT NULL,
    -- Highest rate of the copy of each move in MiB/s; NULL without a limit.
    rate          BIGINT CHECK (rate >= 1),
    -- Microseconds for which the sources of its moves are kept.
    keep_us       BIGINT NOT NULL CHECK (keep_us >= 0),
    -- Skew of the shards before the first move, as planned, and as measured at the end.
    skew_before   DOUBLE PRECISION NOT NULL,
    skew_planned  DOUBLE PRECISION NOT NULL,
    skew_measured DOUBLE PRECISION,
    -- Why it waits, or has ended without success.
    reason        TEXT,
    began_at      TEXT NOT NULL,
    -- Time of the last change of a move.
    changed_at    TEXT NOT NULL,
    ended_at      TEXT
);
-- One rebalance goes on at a time.
CREATE UNIQUE INDEX tessera_rebalances_open ON tessera_rebalances ((1)) WHERE ended_at IS NULL;
