DROP TABLE tessera_idempotency;
DROP TABLE tessera_timelines;
ALTER TABLE tessera_shard DROP COLUMN syncs;
ALTER TABLE tessera_shard DROP COLUMN timeline;
