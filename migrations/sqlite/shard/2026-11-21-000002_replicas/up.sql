-- What a shard needs to have replicas, and to recognise a write that is sent again.

-- The timeline in which `position` was reached.
ALTER TABLE tessera_shard ADD COLUMN timeline INTEGER NOT NULL DEFAULT 0;
-- Counts the commits of a replica that only sync what was committed before: a commit that changes nothing would
-- sync nothing.
ALTER TABLE tessera_shard ADD COLUMN syncs INTEGER NOT NULL DEFAULT 0;

-- Each opening of a primary begins a timeline. A position of a timeline that is not here, or beyond where the
-- next one began, is of a life that did not go on: an older copy was put back.
CREATE TABLE tessera_timelines (
    number   INTEGER NOT NULL PRIMARY KEY,
    timeline INTEGER NOT NULL,
    began    INTEGER NOT NULL,
    at       TEXT    NOT NULL
) STRICT;

-- What was answered to a write with an idempotency key, kept in the write's own transaction for 24 hours. A
-- table like those of the clients, so that it is replicated, and moves with its slot.
CREATE TABLE tessera_idempotency (
    slot            INTEGER NOT NULL,
    shard_key       TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    fingerprint     TEXT    NOT NULL,
    answer          TEXT    NOT NULL CHECK (json_valid(answer)),
    version         INTEGER NOT NULL,
    created_at      TEXT    NOT NULL,
    updated_at      TEXT    NOT NULL,
    PRIMARY KEY (slot, shard_key, idempotency_key)
) STRICT;
CREATE INDEX tessera_idempotency_age ON tessera_idempotency (created_at);
