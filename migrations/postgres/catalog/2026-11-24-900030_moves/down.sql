DELETE FROM tessera_moving;
DROP TABLE tessera_moves;
CREATE TABLE tessera_moves (
    id         TEXT   NOT NULL PRIMARY KEY,
    rebalance  TEXT,
    source     BIGINT NOT NULL,
    target     BIGINT NOT NULL,
    -- Ranges, such as 0-63,70.
    slots      TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    -- Grows whenever another process takes the move over.
    term       BIGINT NOT NULL CHECK (term >= 1),
    began_at   TEXT   NOT NULL,
    changed_at TEXT   NOT NULL,
    ended_at   TEXT,
    rows       BIGINT NOT NULL DEFAULT 0 CHECK (rows >= 0),
    bytes      BIGINT NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    error      TEXT
);
