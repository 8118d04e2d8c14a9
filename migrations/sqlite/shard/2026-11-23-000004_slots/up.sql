-- What a shard needs so that its slots can change hands while it is read and written.

-- The position of the log at which the slots that the shard owns last changed. 0: it has those that it was made with.
ALTER TABLE tessera_shard ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;

-- When the fence of a slot began. A clock that is set back finds a fence that has not begun, and does not hold
-- writes until it has caught up.
ALTER TABLE tessera_slots ADD COLUMN fenced_at TEXT;

-- How many rows each table has here in slots that have moved away or are being copied to this shard. They are not
-- in `tessera_counts`. A table without such rows need not be listed.
CREATE TABLE tessera_foreign_counts (
    name TEXT    NOT NULL PRIMARY KEY,
    rows INTEGER NOT NULL CHECK (rows >= 0)
) STRICT, WITHOUT ROWID;
