DROP TABLE tessera_indexes;
