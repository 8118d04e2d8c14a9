ALTER TABLE tessera_tables DROP COLUMN group_number;
CREATE TABLE tessera_slots_of_main (
    slot      INTEGER NOT NULL PRIMARY KEY CHECK (slot BETWEEN 0 AND 16383),
    state     TEXT    NOT NULL CHECK (state IN ('owned', 'importing', 'fenced', 'moved')),
    until     TEXT,
    moved_to  TEXT,
    move_id   TEXT,
    fenced_at TEXT
) STRICT;
-- Fails if there are slots of other groups: their rows would have no place.
INSERT INTO tessera_slots_of_main (slot, state, until, moved_to, move_id, fenced_at)
SELECT slot, state, until, moved_to, move_id, fenced_at FROM tessera_slots;
DROP TABLE tessera_slots;
ALTER TABLE tessera_slots_of_main RENAME TO tessera_slots;
