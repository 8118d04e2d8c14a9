-- Secret of the sessions of browsers, which all routers share: 32 random bytes in hex, empty before there is one. Sessions of
-- another generation are refused.
ALTER TABLE tessera_access ADD COLUMN session_secret TEXT NOT NULL DEFAULT ''
    CHECK (length(session_secret) IN (0, 64));
ALTER TABLE tessera_access ADD COLUMN session_generation BIGINT NOT NULL DEFAULT 0
    CHECK (session_generation >= 0);
