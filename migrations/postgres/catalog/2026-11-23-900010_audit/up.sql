-- One row with the secret under which audit logs hash shard keys, in hex. It is made when it is first needed.
CREATE TABLE tessera_audit (
    id     BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    secret TEXT   NOT NULL CHECK (length(secret) = 64)
);

-- Last known line of each audit log: its number, and its SHA-256 in hex.
CREATE TABLE tessera_audit_heads (
    log  TEXT   NOT NULL PRIMARY KEY CHECK (length(log) = 32),
    seq  BIGINT NOT NULL CHECK (seq >= 1),
    hash TEXT   NOT NULL CHECK (length(hash) = 64),
    at   TEXT   NOT NULL
);
