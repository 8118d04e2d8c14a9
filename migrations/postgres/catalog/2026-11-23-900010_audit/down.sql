DROP TABLE tessera_audit_heads;
DROP TABLE tessera_audit;
