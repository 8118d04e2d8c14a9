DROP SEQUENCE tessera_tables_changed;
DROP TABLE tessera_intents;
DROP TABLE tessera_cluster;
