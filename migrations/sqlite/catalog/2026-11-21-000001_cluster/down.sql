DROP TABLE tessera_cluster;
