-- Dump of the only database of a cluster with one shard, before its catalog had tables of shards and owners.

CREATE SCHEMA tessera;
SET search_path = tessera, public;

CREATE TABLE __diesel_schema_migrations (
    version VARCHAR(50) PRIMARY KEY NOT NULL,
    run_on  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO __diesel_schema_migrations (version) VALUES
('20261122000001'),
('20261122900001'),
('20261123900002'),
('20261123900008'),
('20261123900010');

CREATE TABLE tessera_shard (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    cluster_id TEXT   NOT NULL,
    shard      TEXT   NOT NULL
);

CREATE SEQUENCE tessera_version INCREMENT BY 4096 CACHE 1;

CREATE TABLE tessera_slots (
    slot     INTEGER NOT NULL PRIMARY KEY CHECK (slot BETWEEN 0 AND 16383),
    state    TEXT    NOT NULL CHECK (state IN ('owned', 'importing', 'fenced', 'moved')),
    until    TIMESTAMPTZ,
    moved_to TEXT,
    move_id  TEXT
);

CREATE TABLE tessera_owned (
    id   BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    bits BYTEA  NOT NULL
);
ALTER TABLE tessera_owned ALTER bits SET STORAGE PLAIN;
INSERT INTO tessera_owned VALUES (1, decode(repeat('00', 2048), 'hex'));

CREATE FUNCTION tessera_note_owned() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    known BYTEA := decode(repeat('00', 2048), 'hex');
    own INTEGER;
BEGIN
    PERFORM pg_advisory_xact_lock(1950, 5);
    FOR own IN SELECT slot FROM tessera.tessera_slots WHERE state = 'owned' LOOP
        known := set_bit(known, own, 1);
    END LOOP;
    INSERT INTO tessera.tessera_owned VALUES (1, known) ON CONFLICT (id) DO UPDATE SET bits = excluded.bits;
    RETURN NULL;
END $$;
CREATE TRIGGER tessera_note_owned AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tessera_slots
FOR EACH STATEMENT EXECUTE FUNCTION tessera_note_owned();

CREATE FUNCTION tessera_enter(slots INTEGER[], alone BOOLEAN) RETURNS INTEGER[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    owned BYTEA;
    asked INTEGER;
    strange INTEGER[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tessera_enter needs READ COMMITTED';
    END IF;
    IF alone THEN
        PERFORM pg_advisory_xact_lock(1950, 1);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(1950, 1);
    END IF;
    SELECT bits INTO STRICT owned FROM tessera.tessera_owned WHERE id = 1;
    IF cardinality(slots) <= 64 THEN
        FOREACH asked IN ARRAY slots LOOP
            IF get_bit(owned, asked) = 0 THEN
                strange := strange || asked;
            END IF;
        END LOOP;
    ELSE
        SELECT array_agg(slot) INTO strange FROM unnest(slots) AS slot WHERE get_bit(owned, slot) = 0;
    END IF;
    IF strange IS NULL THEN
        RETURN '{}';
    END IF;
    SELECT array_agg(lacking.slot) INTO strange FROM unnest(strange) AS lacking (slot)
    WHERE NOT EXISTS (
        SELECT FROM tessera.tessera_slots AS own
        WHERE own.slot = lacking.slot AND own.state = 'fenced' AND own.until < clock_timestamp());
    RETURN coalesce(strange, '{}');
END $$;

CREATE FUNCTION tessera_enter_one(asked INTEGER) RETURNS BIGINT
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    owned BYTEA;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tessera_enter_one needs READ COMMITTED';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(1950, 1);
    SELECT bits INTO STRICT owned FROM tessera.tessera_owned WHERE id = 1;
    IF get_bit(owned, asked) = 0 AND tessera.tessera_enter(ARRAY[asked], false) <> '{}' THEN
        RETURN NULL;
    END IF;
    RETURN nextval('tessera.tessera_version');
END $$;

CREATE TABLE tessera_tables (
    name        TEXT NOT NULL PRIMARY KEY,
    column_list TEXT NOT NULL,
    id          TEXT NOT NULL,
    routing     TEXT,
    made_at     BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE tessera_idempotency (
    slot            INTEGER     NOT NULL,
    shard_key       TEXT        COLLATE "C" NOT NULL,
    idempotency_key TEXT        COLLATE "C" NOT NULL,
    fingerprint     TEXT        COLLATE "C" NOT NULL,
    answer          JSON        NOT NULL,
    version         BIGINT      NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slot, shard_key, idempotency_key)
);
CREATE INDEX tessera_idempotency_age ON tessera_idempotency (created_at);

CREATE TABLE public.users (
    slot          INTEGER     NOT NULL,
    shard_key     TEXT        COLLATE "C" NOT NULL,
    user_id       TEXT        COLLATE "C" NOT NULL,
    name          TEXT        COLLATE "C" NOT NULL,
    email         TEXT        COLLATE "C" NOT NULL,
    partition_key TEXT        COLLATE "C",
    version       BIGINT      NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slot, shard_key, user_id)
);

CREATE TABLE public.orders (
    slot       INTEGER     NOT NULL,
    shard_key  TEXT        COLLATE "C" NOT NULL,
    order_id   TEXT        COLLATE "C" NOT NULL,
    user_id    TEXT        COLLATE "C" NOT NULL,
    amount     BIGINT      NOT NULL,
    status     TEXT        COLLATE "C",
    note       TEXT        COLLATE "C",
    version    BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slot, shard_key, order_id)
);

CREATE TABLE public.products (
    slot       INTEGER     NOT NULL,
    shard_key  TEXT        COLLATE "C" NOT NULL,
    product_id TEXT        COLLATE "C" NOT NULL,
    name       TEXT        COLLATE "C" NOT NULL,
    price      BIGINT      NOT NULL,
    stock      BIGINT      NOT NULL,
    attributes JSON,
    version    BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slot, shard_key, product_id)
);

CREATE TABLE public.transactions (
    slot       INTEGER     NOT NULL,
    shard_key  TEXT        COLLATE "C" NOT NULL,
    tx_id      TEXT        COLLATE "C" NOT NULL,
    account    TEXT        COLLATE "C" NOT NULL,
    amount     BIGINT      NOT NULL,
    memo       TEXT        COLLATE "C",
    version    BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slot, shard_key, tx_id)
);

CREATE TABLE public.kv (
    slot       INTEGER     NOT NULL,
    shard_key  TEXT        COLLATE "C" NOT NULL,
    key        TEXT        COLLATE "C" NOT NULL,
    value      JSON        NOT NULL,
    version    BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slot, shard_key, key)
);

INSERT INTO tessera_tables (name, column_list, id, routing) VALUES
('users', '[
    {"name":"user_id","type":"text","null":false},
    {"name":"name","type":"text","null":false},
    {"name":"email","type":"text","null":false},
    {"name":"partition_key","type":"text","null":true}]', '["user_id"]', 'user_id'),
('orders', '[
    {"name":"order_id","type":"text","null":false},
    {"name":"user_id","type":"text","null":false},
    {"name":"amount","type":"bigint","null":false},
    {"name":"status","type":"text","null":true},
    {"name":"note","type":"text","null":true}]', '["order_id"]', 'user_id'),
('products', '[
    {"name":"product_id","type":"text","null":false},
    {"name":"name","type":"text","null":false},
    {"name":"price","type":"bigint","null":false},
    {"name":"stock","type":"bigint","null":false},
    {"name":"attributes","type":"json","null":true}]', '["product_id"]', 'product_id'),
('transactions', '[
    {"name":"tx_id","type":"text","null":false},
    {"name":"account","type":"text","null":false},
    {"name":"amount","type":"bigint","null":false},
    {"name":"memo","type":"text","null":true}]', '["tx_id"]', 'account'),
('kv', '[
    {"name":"key","type":"text","null":false},
    {"name":"value","type":"json","null":false}]', '["key"]', 'key');

CREATE TABLE tessera_cluster (
    id                   BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    cluster_id           TEXT   NOT NULL,
    epoch                BIGINT NOT NULL CHECK (epoch >= 1),
    keyspace             TEXT   NOT NULL,
    hash                 TEXT   NOT NULL,
    parameters           TEXT   NOT NULL,
    slots                BIGINT NOT NULL,
    placement            TEXT   NOT NULL,
    shards               TEXT   NOT NULL,
    ranges               TEXT   NOT NULL,
    created_at           TEXT   NOT NULL,
    ready                BIGINT NOT NULL CHECK (ready IN (0, 1)),
    replicas             BIGINT NOT NULL DEFAULT 0,
    timelines            TEXT   NOT NULL DEFAULT '{}',
    secret               TEXT   NOT NULL,
    placement_parameters TEXT   NOT NULL DEFAULT '{}'
);

CREATE TABLE tessera_intents (
    name        TEXT NOT NULL PRIMARY KEY,
    state       TEXT NOT NULL CHECK (state IN ('make', 'undo')),
    declaration TEXT NOT NULL,
    at          TEXT NOT NULL
);

CREATE SEQUENCE tessera_tables_changed;

CREATE TABLE tessera_access (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    mode       TEXT   NOT NULL CHECK (mode IN ('off', 'on')),
    generation BIGINT NOT NULL CHECK (generation >= 1)
);
INSERT INTO tessera_access (id, mode, generation) VALUES (1, 'off', 1);

CREATE TABLE tessera_access_keys (
    id         TEXT   NOT NULL PRIMARY KEY CHECK (length(id) = 12),
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

CREATE TABLE tessera_access_roles (
    name     TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
);

CREATE TABLE tessera_access_denials (
    kind    TEXT NOT NULL CHECK (kind IN ('token', 'subject', 'tenant', 'issued_before')),
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL,
    void_at BIGINT CHECK (void_at >= 0),
    PRIMARY KEY (kind, issuer, subject)
);

CREATE TABLE tessera_access_usage (
    day    BIGINT NOT NULL CHECK (day >= 0),
    caller TEXT   NOT NULL,
    rows   BIGINT NOT NULL CHECK (rows >= 0),
    PRIMARY KEY (day, caller)
);

CREATE TABLE tessera_access_log (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     TEXT NOT NULL,
    author TEXT NOT NULL,
    kind   TEXT NOT NULL CHECK (kind IN ('key', 'role', 'denial', 'mode')),
    id     TEXT NOT NULL,
    what   TEXT NOT NULL
);

ALTER TABLE tessera_access ADD COLUMN session_secret TEXT NOT NULL DEFAULT ''
    CHECK (length(session_secret) IN (0, 64));
ALTER TABLE tessera_access ADD COLUMN session_generation BIGINT NOT NULL DEFAULT 0
    CHECK (session_generation >= 0);

CREATE TABLE tessera_audit (
    id     BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    secret TEXT   NOT NULL CHECK (length(secret) = 64)
);

CREATE TABLE tessera_audit_heads (
    log  TEXT   NOT NULL PRIMARY KEY CHECK (length(log) = 32),
    seq  BIGINT NOT NULL CHECK (seq >= 1),
    hash TEXT   NOT NULL CHECK (length(hash) = 64),
    at   TEXT   NOT NULL
);

INSERT INTO tessera_cluster (id, cluster_id, epoch, keyspace, hash, parameters, slots, placement, shards, ranges,
    created_at, ready, replicas, timelines, secret, placement_parameters)
VALUES (1, '019339a0-0000-7000-8000-000000000001', 1, 'hash', 'xxh3_64', '{"seed":0}', 16384, 'even', '[["shard1",1]]',
    '[[0,16383,0]]', '2026-11-23T12:00:00.000000Z', 1, 0, '{}', '00112233445566778899aabbccddeeff', '{}');
INSERT INTO tessera_shard VALUES (1, '019339a0-0000-7000-8000-000000000001', 'shard1');
INSERT INTO tessera_slots (slot, state) SELECT slot, 'owned' FROM generate_series(0, 16383) AS slot;
SELECT setval('tessera_version', 8193);
INSERT INTO public.users VALUES
(3421, 'user_123', 'user_123', 'Ada', 'ada@example.com', NULL, 1, '2026-11-23T12:00:01Z', '2026-11-23T12:00:01Z');
INSERT INTO public.kv VALUES
(10337, 'key with space', 'key with space', '{"n":1.10}', 4097, '2026-11-23T12:00:02Z', '2026-11-23T12:00:02Z');
