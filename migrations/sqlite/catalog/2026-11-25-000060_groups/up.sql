-- Groups of tables. Group number g has the slots from g * 16384 on, 16384 of them. Keyspace and placement of the group
-- main, number 0, are those of tessera_cluster; it has a row here only if its shards are limited.
CREATE TABLE tessera_groups (
    number               INTEGER NOT NULL PRIMARY KEY CHECK (number BETWEEN 0 AND 3),
    name                 TEXT    NOT NULL UNIQUE,
    keyspace             TEXT    NOT NULL,
    parameters           TEXT    NOT NULL,
    placement            TEXT    NOT NULL,
    placement_parameters TEXT    NOT NULL,
    -- Numbers of the shards that may own slots of the group; NULL for all of them.
    shards               TEXT    CHECK (json_valid(shards)),
    -- Names of the tables that belong to the group when they are created.
    tables               TEXT    NOT NULL CHECK (json_valid(tables)),
    -- 1 once each shard owns its slots of the group.
    ready                INTEGER NOT NULL CHECK (ready IN (0, 1))
) STRICT;

-- The number of a slot tells its group, so group_name is main in every row of these two tables.
CREATE TABLE tessera_owners_of_groups (
    group_name     TEXT    NOT NULL,
    slot           INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 65535),
    shard          INTEGER NOT NULL,
    since          INTEGER NOT NULL CHECK (since >= 1),
    -- Position of the owner when it accepted the slot.
    floor_timeline INTEGER,
    floor_position INTEGER,
    -- The owner before.
    came_from      INTEGER,
    PRIMARY KEY (group_name, slot)
) STRICT, WITHOUT ROWID;
INSERT INTO tessera_owners_of_groups SELECT * FROM tessera_owners;
DROP TABLE tessera_owners;
ALTER TABLE tessera_owners_of_groups RENAME TO tessera_owners;

CREATE TABLE tessera_moving_of_groups (
    group_name TEXT    NOT NULL,
    slot       INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 65535),
    move_id    TEXT    NOT NULL,
    PRIMARY KEY (group_name, slot)
) STRICT, WITHOUT ROWID;
INSERT INTO tessera_moving_of_groups SELECT * FROM tessera_moving;
DROP TABLE tessera_moving;
ALTER TABLE tessera_moving_of_groups RENAME TO tessera_moving;
