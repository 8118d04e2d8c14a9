-- A router reads only the keys that have changed since it read them last. Each key has the generation in which it changed, or a
-- later one. Triggers write it, because programs of an earlier version change keys as well and do not know it.
ALTER TABLE tessera_access_keys ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX tessera_access_keys_by_change ON tessera_access_keys (changed);

-- Keys that were removed, which routers may still have.
CREATE TABLE tessera_access_removed_keys (
    id      TEXT   NOT NULL PRIMARY KEY,
    changed BIGINT NOT NULL
);
CREATE INDEX tessera_access_removed_keys_by_change ON tessera_access_removed_keys (changed);

CREATE OR REPLACE FUNCTION tessera_access_key_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed := (SELECT generation + 1 FROM tessera_access);
    RETURN NEW;
END $$;
CREATE TRIGGER tessera_access_key_changed BEFORE INSERT OR UPDATE ON tessera_access_keys
    FOR EACH ROW EXECUTE FUNCTION tessera_access_key_changed();

-- A router that is 10 000 generations behind reads all keys again.
CREATE OR REPLACE FUNCTION tessera_access_key_removed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_changed BIGINT := (SELECT generation + 1 FROM tessera_access);
BEGIN
    DELETE FROM tessera_access_removed_keys WHERE changed < now_changed - 20000;
    INSERT INTO tessera_access_removed_keys (id, changed) VALUES (OLD.id, now_changed)
        ON CONFLICT (id) DO UPDATE SET changed = excluded.changed;
    RETURN NULL;
END $$;
CREATE TRIGGER tessera_access_key_removed AFTER DELETE ON tessera_access_keys
    FOR EACH ROW EXECUTE FUNCTION tessera_access_key_removed();
