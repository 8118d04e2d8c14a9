-- Access control: one row with the mode that routers must have, and a number that grows with each change.
CREATE TABLE tessera_access (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    mode       TEXT   NOT NULL CHECK (mode IN ('off', 'on')),
    generation BIGINT NOT NULL CHECK (generation >= 1)
);
INSERT INTO tessera_access (id, mode, generation) VALUES (1, 'off', 1);

-- API keys. Times are seconds since 1970, days are counted from 1970. The secret itself is never stored.
CREATE TABLE tessera_access_keys (
    id         TEXT   NOT NULL PRIMARY KEY CHECK (length(id) = 12),
    -- SHA-256 of the secret, in hex.
    digest     TEXT   NOT NULL CHECK (length(digest) = 64),
    role       TEXT   NOT NULL,
    tenants    TEXT   NOT NULL,
    name       TEXT   NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    made_by    TEXT   NOT NULL,
    made_at    BIGINT NOT NULL CHECK (made_at >= 0),
    expires_at BIGINT CHECK (expires_at >= 0),
    revoked_at BIGINT CHECK (revoked_at >= 0),
    suspended  BIGINT NOT NULL CHECK (suspended IN (0, 1)),
    used_on    BIGINT CHECK (used_on >= 0)
);
CREATE INDEX tessera_access_keys_by_role ON tessera_access_keys (role);

-- Roles, without those that are built in.
CREATE TABLE tessera_access_roles (
    name     TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
);

-- Tokens and tenants that are refused before their time, until `void_at` if that is given.
CREATE TABLE tessera_access_denials (
    kind    TEXT NOT NULL CHECK (kind IN ('token', 'subject', 'tenant', 'issued_before')),
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL,
    void_at BIGINT CHECK (void_at >= 0),
    PRIMARY KEY (kind, issuer, subject)
);

-- Rows that each limited caller used on a day.
CREATE TABLE tessera_access_usage (
    day    BIGINT NOT NULL CHECK (day >= 0),
    caller TEXT   NOT NULL,
    rows   BIGINT NOT NULL CHECK (rows >= 0),
    PRIMARY KEY (day, caller)
);

-- Every change of the above, written in the same transaction.
CREATE TABLE tessera_access_log (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     TEXT NOT NULL,
    author TEXT NOT NULL,
    kind   TEXT NOT NULL CHECK (kind IN ('key', 'role', 'denial', 'mode')),
    id     TEXT NOT NULL,
    what   TEXT NOT NULL
);
