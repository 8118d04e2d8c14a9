-- Groups of tables. Group number g has the slots from g * 16384 on, 16384 of them. Keyspace and placement of the group
-- main, number 0, are those of tessera_cluster; it has a row here only if its shards are limited.
CREATE TABLE tessera_groups (
    number               BIGINT NOT NULL PRIMARY KEY CHECK (number BETWEEN 0 AND 3),
    name                 TEXT   NOT NULL UNIQUE,
    keyspace             TEXT   NOT NULL,
    parameters           TEXT   NOT NULL,
    placement            TEXT   NOT NULL,
    placement_parameters TEXT   NOT NULL,
    -- Numbers of the shards that may own slots of the group; NULL for all of them.
    shards               TEXT,
    -- Names of the tables that belong to the group when they are created.
    tables               TEXT   NOT NULL,
    -- 1 once each shard owns its slots of the group.
    ready                BIGINT NOT NULL CHECK (ready IN (0, 1))
);

-- The number of a slot tells its group, so group_name is main in every row of these two tables.
ALTER TABLE tessera_owners DROP CONSTRAINT tessera_owners_slot_check,
    ADD CONSTRAINT tessera_owners_slot_check CHECK (slot BETWEEN 0 AND 65535);
ALTER TABLE tessera_moving DROP CONSTRAINT tessera_moving_slot_check,
    ADD CONSTRAINT tessera_moving_slot_check CHECK (slot BETWEEN 0 AND 65535);
