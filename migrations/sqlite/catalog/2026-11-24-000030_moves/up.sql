-- Moves of slots with the orders of the operator. No earlier version has stored a move, so the table is made again.
DROP TABLE tessera_moves;
-- The shards' own tables decide who owns a slot; these rows report it, and tell the mover what the operator wants.
CREATE TABLE tessera_moves (
    id         TEXT    NOT NULL PRIMARY KEY,
    rebalance  TEXT,
    source     INTEGER NOT NULL,
    target     INTEGER NOT NULL,
    -- Ranges, such as 0-63,70.
    slots      TEXT    NOT NULL,
    phase      TEXT    NOT NULL,
    -- Orders of the operator.
    goal       TEXT    NOT NULL CHECK (goal IN ('forward', 'back', 'settle')),
    paused     INTEGER NOT NULL CHECK (paused IN (0, 1)),
    -- Highest rate of the copy in MiB/s; NULL without a limit.
    rate       INTEGER CHECK (rate >= 1),
    -- Microseconds for which the source is kept.
    keep_us    INTEGER NOT NULL CHECK (keep_us >= 0),
    -- Grows whenever another process takes the move over; 0 before the first.
    term       INTEGER NOT NULL CHECK (term >= 0),
    began_at   TEXT    NOT NULL,
    -- Time of the last change of phase, rows or bytes.
    changed_at TEXT    NOT NULL,
    -- Time at which the target began to own the slots.
    owned_at   TEXT,
    ended_at   TEXT,
    -- The last report: rows, bytes, hold_us (longest time for which writes of the slots waited) and reason (why the move
    -- waits or has ended).
    progress   TEXT    NOT NULL CHECK (json_valid(progress))
) STRICT;
