-- What every shard keeps for itself (in the schema tessera), and the tables that come with Tessera (in public).

-- Who this database is.
CREATE TABLE tessera_shard (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    cluster_id TEXT   NOT NULL,
    shard      TEXT   NOT NULL
);

-- Versions of rows, in blocks: whoever draws a number has it and those that follow, of which it gives out 2048 at most.
-- Without a cache: two sessions would draw from different stocks, and versions go back.
CREATE SEQUENCE tessera_version INCREMENT BY 4096 CACHE 1;

-- Which slots may be written here. The truth about ownership: a write checks it in its transaction.
CREATE TABLE tessera_slots (
    slot     INTEGER NOT NULL PRIMARY KEY CHECK (slot BETWEEN 0 AND 16383),
    state    TEXT    NOT NULL CHECK (state IN ('owned', 'importing', 'fenced', 'moved')),
    until    TIMESTAMPTZ,
    moved_to TEXT,
    move_id  TEXT
);

-- The same in one row, a bit for each slot that is owned: looking up a thousand slots would cost as much as storing a
-- row for half of them. Kept by the transaction that changes the slots.
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
    -- One at a time: of two that change slots, the second sees what the first has left.
    PERFORM pg_advisory_xact_lock(1950, 5);
    FOR own IN SELECT slot FROM tessera.tessera_slots WHERE state = 'owned' LOOP
        known := set_bit(known, own, 1);
    END LOOP;
    INSERT INTO tessera.tessera_owned VALUES (1, known) ON CONFLICT (id) DO UPDATE SET bits = excluded.bits;
    RETURN NULL;
END $$;
CREATE TRIGGER tessera_note_owned AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tessera_slots
FOR EACH STATEMENT EXECUTE FUNCTION tessera_note_owned();

-- Lets a transaction write: takes the shard's fence lock until the transaction ends, and only then looks, with a
-- snapshot of its own, which of these slots may not be written here. VOLATILE, because only such a function sees what
-- was committed before the lock was granted; READ COMMITTED, because under the others it would not either. `alone`
-- is for transactions that remove rows: no version may be drawn for a row before it is removed and stored after.
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
    -- A query takes a while to begin, a loop a while for each turn.
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
    -- A fence that nobody has lifted in time does not count.
    SELECT array_agg(lacking.slot) INTO strange FROM unnest(strange) AS lacking (slot)
    WHERE NOT EXISTS (
        SELECT FROM tessera.tessera_slots AS own
        WHERE own.slot = lacking.slot AND own.state = 'fenced' AND own.until < clock_timestamp());
    RETURN coalesce(strange, '{}');
END $$;

-- The same for one row: draws its version, NULL if its slot may not be written here.
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

-- What the API knows of a table beyond its SQL: the types of its columns, its id, its routing column.
CREATE TABLE tessera_tables (
    name        TEXT NOT NULL PRIMARY KEY,
    column_list TEXT NOT NULL,
    id          TEXT NOT NULL,
    routing     TEXT,
    -- 0: it came with the database.
    made_at     BIGINT NOT NULL DEFAULT 0
);

-- What was answered to a write with an idempotency key, kept in the write's own transaction for 24 hours. A
-- table like those of the clients, so that it moves with its slot.
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
