DROP TABLE tessera_rebalances;
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
