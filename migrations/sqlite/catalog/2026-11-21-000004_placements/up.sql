-- What else the placement was made of: the owners of partitions, the virtual nodes of a ring.
ALTER TABLE tessera_cluster ADD COLUMN placement_parameters TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(placement_parameters));
