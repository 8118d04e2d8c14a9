-- Fails if there are slots of other groups: their rows would have no place.
CREATE TABLE tessera_owners_of_main (
    group_name     TEXT    NOT NULL,
    slot           INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 16383),
    shard          INTEGER NOT NULL,
    since          INTEGER NOT NULL CHECK (since >= 1),
    floor_timeline INTEGER,
    floor_position INTEGER,
    came_from      INTEGER,
    PRIMARY KEY (group_name, slot)
) STRICT, WITHOUT ROWID;
INSERT INTO tessera_owners_of_main SELECT * FROM tessera_owners;
DROP TABLE tessera_owners;
ALTER TABLE tessera_owners_of_main RENAME TO tessera_owners;

CREATE TABLE tessera_moving_of_main (
    group_name TEXT    NOT NULL,
    slot       INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 16383),
    move_id    TEXT    NOT NULL,
    PRIMARY KEY (group_name, slot)
) STRICT, WITHOUT ROWID;
INSERT INTO tessera_moving_of_main SELECT * FROM tessera_moving;
DROP TABLE tessera_moving;
ALTER TABLE tessera_moving_of_main RENAME TO tessera_moving;

DROP TABLE tessera_groups;
