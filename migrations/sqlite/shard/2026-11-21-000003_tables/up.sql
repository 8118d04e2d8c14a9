-- The position of the log at which a table was made: a replica that has not come so far does not know it. 0: it was
-- there from the beginning.
ALTER TABLE tessera_tables ADD COLUMN made_at INTEGER NOT NULL DEFAULT 0;
