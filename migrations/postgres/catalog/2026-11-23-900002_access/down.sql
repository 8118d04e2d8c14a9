DROP TABLE tessera_access_log;
DROP TABLE tessera_access_usage;
DROP TABLE tessera_access_denials;
DROP TABLE tessera_access_roles;
DROP TABLE tessera_access_keys;
DROP TABLE tessera_access;
