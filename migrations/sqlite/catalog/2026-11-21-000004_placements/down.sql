ALTER TABLE tessera_cluster DROP COLUMN placement_parameters;
