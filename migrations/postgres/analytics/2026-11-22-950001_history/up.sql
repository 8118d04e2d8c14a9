-- What happened: the finished slots of the rings of each source, a router by its name; and under that name with `/counted`
-- one row of when it counted at all.
CREATE TABLE tessera_history (
    source TEXT    COLLATE "C" NOT NULL,
    -- Seconds that a slot lasts.
    step   INTEGER NOT NULL CHECK (step IN (1, 10, 60)),
    -- When it began, in seconds since 1970.
    start  BIGINT  NOT NULL,
    -- How the frame is written: a program reads those that it writes, and no others.
    shape  INTEGER NOT NULL,
    frame  BYTEA   NOT NULL,
    PRIMARY KEY (source, step, start)
);
-- It is compressed already.
ALTER TABLE tessera_history ALTER frame SET STORAGE EXTERNAL;

CREATE INDEX tessera_history_age ON tessera_history (step, start);
