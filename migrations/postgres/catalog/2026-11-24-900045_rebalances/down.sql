DROP TABLE tessera_rebalances;
CREATE TABLE tessera_rebalances (
    id            TEXT NOT NULL PRIMARY KEY,
    goal          TEXT NOT NULL,
    plan          TEXT NOT NULL,
    skew_before   DOUBLE PRECISION,
    skew_planned  DOUBLE PRECISION,
    skew_measured DOUBLE PRECISION,
    began_at      TEXT NOT NULL,
    ended_at      TEXT
);
