DROP TABLE tessera_history;
