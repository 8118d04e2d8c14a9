DROP TABLE tessera_intents;
