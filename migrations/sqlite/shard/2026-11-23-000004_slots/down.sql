DROP TABLE tessera_foreign_counts;
ALTER TABLE tessera_slots DROP COLUMN fenced_at;
ALTER TABLE tessera_shard DROP COLUMN generation;
