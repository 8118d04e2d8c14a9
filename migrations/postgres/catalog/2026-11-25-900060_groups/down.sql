-- Fails if there are slots of other groups: their rows would have no place.
ALTER TABLE tessera_owners DROP CONSTRAINT tessera_owners_slot_check,
    ADD CONSTRAINT tessera_owners_slot_check CHECK (slot BETWEEN 0 AND 16383);
ALTER TABLE tessera_moving DROP CONSTRAINT tessera_moving_slot_check,
    ADD CONSTRAINT tessera_moving_slot_check CHECK (slot BETWEEN 0 AND 16383);
DROP TABLE tessera_groups;
