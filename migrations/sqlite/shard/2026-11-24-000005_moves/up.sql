-- What a shard keeps of the moves of slots in which it takes part: its side's truth, and few rows at a time.

CREATE TABLE tessera_moves (
    -- A UUID.
    id               TEXT    NOT NULL PRIMARY KEY,
    -- The part of the shard in this leg, and the number of the other shard.
    role             TEXT    NOT NULL CHECK (role IN ('source', 'target')),
    other            INTEGER NOT NULL,
    -- The numbers of the slots, in order. A slot is in one row at most.
    slots            TEXT    NOT NULL CHECK (json_valid(slots)),
    leg              INTEGER NOT NULL,
    -- The term of the mover that may change the row. The mover's own number has 64 bits.
    term             INTEGER NOT NULL,
    mover            TEXT    NOT NULL,
    -- The state of the other shard that the rows here have. No mark: no change of this stream.
    pass             INTEGER NOT NULL,
    round            INTEGER NOT NULL,
    feed_timeline    INTEGER NOT NULL,
    feed_begun_timeline INTEGER NOT NULL,
    feed_begun       INTEGER NOT NULL,
    mark             INTEGER,
    -- The extent of the rows here: empty, through (the key in copied_to), or whole.
    cursor           TEXT    NOT NULL CHECK (cursor IN ('empty', 'through', 'whole')),
    copied_to        TEXT,
    -- The position of the log after which changes of the slots are recorded. None: they are not.
    traced_after     INTEGER,
    -- The position of this shard when the row was made.
    begun_timeline   INTEGER NOT NULL,
    begun            INTEGER NOT NULL,
    -- The version counter at the commit.
    version          INTEGER NOT NULL,
    -- The position of the other shard below which nothing is read there.
    home_timeline    INTEGER,
    home             INTEGER,
    CHECK ((cursor = 'through') = (copied_to IS NOT NULL)),
    CHECK ((home_timeline IS NULL) = (home IS NULL))
) STRICT;

-- How many rows each table has here in the slots of a move, while the shard does not own them: counting them would
-- take long when it begins to. Numbers that are below 0, or not there, are not known.
CREATE TABLE tessera_move_counts (
    id   TEXT    NOT NULL,
    name TEXT    NOT NULL,
    rows INTEGER NOT NULL,
    PRIMARY KEY (id, name)
) STRICT, WITHOUT ROWID;
