-- The shards, by numbers that are given once and never again: a retired shard keeps its row. A cluster of before had its
-- shards and owners in columns of tessera_cluster; they are copied here when its catalog is first opened.
CREATE TABLE tessera_shards (
    number  INTEGER NOT NULL PRIMARY KEY CHECK (number >= 0),
    name    TEXT    NOT NULL,
    weight  INTEGER NOT NULL CHECK (weight >= 0),
    state   TEXT    NOT NULL CHECK (state IN ('joining', 'serving', 'draining', 'retired')),
    -- Servers of the shard, without user and password. Files have none.
    address TEXT
) STRICT;

-- The owner of each slot, and the epoch in which the slot got this owner.
CREATE TABLE tessera_owners (
    group_name     TEXT    NOT NULL,
    slot           INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 16383),
    shard          INTEGER NOT NULL,
    since          INTEGER NOT NULL CHECK (since >= 1),
    -- Position of the owner when it accepted the slot.
    floor_timeline INTEGER,
    floor_position INTEGER,
    -- The owner before.
    came_from      INTEGER,
    PRIMARY KEY (group_name, slot)
) STRICT, WITHOUT ROWID;

-- Plans to change the owners of slots, with the skew of the shards before them, as planned and as measured afterwards.
CREATE TABLE tessera_rebalances (
    id            TEXT NOT NULL PRIMARY KEY,
    goal          TEXT NOT NULL,
    plan          TEXT NOT NULL CHECK (json_valid(plan)),
    skew_before   REAL,
    skew_planned  REAL,
    skew_measured REAL,
    began_at      TEXT NOT NULL,
    ended_at      TEXT
) STRICT;

-- Moves of slots from one shard to another. The shards' own tables decide who owns a slot; these rows report it.
CREATE TABLE tessera_moves (
    id         TEXT    NOT NULL PRIMARY KEY,
    rebalance  TEXT,
    source     INTEGER NOT NULL,
    target     INTEGER NOT NULL,
    -- Ranges, such as 0-63,70.
    slots      TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    -- Grows whenever another process takes the move over.
    term       INTEGER NOT NULL CHECK (term >= 1),
    began_at   TEXT    NOT NULL,
    changed_at TEXT    NOT NULL,
    ended_at   TEXT,
    rows       INTEGER NOT NULL DEFAULT 0 CHECK (rows >= 0),
    bytes      INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    error      TEXT
) STRICT;

-- Slots of moves that have not ended: a slot is in one of them at most.
CREATE TABLE tessera_moving (
    group_name TEXT    NOT NULL,
    slot       INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 16383),
    move_id    TEXT    NOT NULL,
    PRIMARY KEY (group_name, slot)
) STRICT, WITHOUT ROWID;
