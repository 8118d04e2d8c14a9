DROP TRIGGER tessera_access_key_removed ON tessera_access_keys;
DROP TRIGGER tessera_access_key_changed ON tessera_access_keys;
DROP FUNCTION tessera_access_key_removed();
DROP FUNCTION tessera_access_key_changed();
DROP TABLE tessera_access_removed_keys;
DROP INDEX tessera_access_keys_by_change;
ALTER TABLE tessera_access_keys DROP COLUMN changed;
