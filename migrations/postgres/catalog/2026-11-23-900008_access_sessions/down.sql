ALTER TABLE tessera_access DROP COLUMN session_generation;
ALTER TABLE tessera_access DROP COLUMN session_secret;
