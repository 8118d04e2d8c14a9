ALTER TABLE tessera_tables DROP COLUMN made_at;
