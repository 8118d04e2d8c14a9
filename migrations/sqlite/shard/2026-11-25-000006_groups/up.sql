-- Slots of further groups of tables have numbers above those of the group main.
CREATE TABLE tessera_slots_of_groups (
    slot      INTEGER NOT NULL PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    state     TEXT    NOT NULL CHECK (state IN ('owned', 'importing', 'fenced', 'moved')),
    until     TEXT,
    moved_to  TEXT,
    move_id   TEXT,
    fenced_at TEXT
) STRICT;
INSERT INTO tessera_slots_of_groups (slot, state, until, moved_to, move_id, fenced_at)
SELECT slot, state, until, moved_to, move_id, fenced_at FROM tessera_slots;
DROP TABLE tessera_slots;
ALTER TABLE tessera_slots_of_groups RENAME TO tessera_slots;

-- The group that a table belongs to. 0: main.
ALTER TABLE tessera_tables ADD COLUMN group_number INTEGER NOT NULL DEFAULT 0;
