-- What happened: the finished slots of the rings of each source, a router by its name; and under that name with `/counted`
-- one row of when it counted at all.
CREATE TABLE tessera_history (
    id     INTEGER PRIMARY KEY,
    source TEXT    NOT NULL,
    -- Seconds that a slot lasts.
    step   INTEGER NOT NULL CHECK (step IN (1, 10, 60)),
    -- When it began, in seconds since 1970.
    start  INTEGER NOT NULL,
    -- How the frame is written: a program reads those that it writes, and no others.
    shape  INTEGER NOT NULL,
    frame  BLOB    NOT NULL
) STRICT;

-- Rows are large: what is looked for is found without touching them.
CREATE UNIQUE INDEX tessera_history_slot ON tessera_history (source, step, start);
CREATE INDEX tessera_history_age ON tessera_history (step, start);
