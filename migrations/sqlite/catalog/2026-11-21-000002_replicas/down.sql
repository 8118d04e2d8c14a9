ALTER TABLE tessera_cluster DROP COLUMN secret;
ALTER TABLE tessera_cluster DROP COLUMN timelines;
ALTER TABLE tessera_cluster DROP COLUMN replicas;
