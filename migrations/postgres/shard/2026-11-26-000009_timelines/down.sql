DROP FUNCTION tessera_begin_timeline();
ALTER TABLE tessera_shard DROP system, DROP timeline;
