-- What every shard keeps for itself, and the tables that come with Tessera.

-- Who this file is, and the counters that only grow: `version` of rows, `position` of the log.
CREATE TABLE tessera_shard (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    cluster_id TEXT    NOT NULL,
    shard      TEXT    NOT NULL,
    file_id    TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    position   INTEGER NOT NULL
) STRICT;

-- Which slots may be written here. The truth about ownership: a write checks it in its transaction.
CREATE TABLE tessera_slots (
    slot     INTEGER NOT NULL PRIMARY KEY CHECK (slot BETWEEN 0 AND 16383),
    state    TEXT    NOT NULL CHECK (state IN ('owned', 'importing', 'fenced', 'moved')),
    until    TEXT,
    moved_to TEXT,
    move_id  TEXT
) STRICT;

-- The change log: what rows became, one entry a transaction, one JSON object a line.
CREATE TABLE tessera_log (
    position INTEGER NOT NULL PRIMARY KEY,
    at       TEXT    NOT NULL,
    changes  BLOB    NOT NULL
) STRICT;

-- What the API knows of a table beyond its SQL: the types of its columns, its id, its routing column.
CREATE TABLE tessera_tables (
    name    TEXT NOT NULL PRIMARY KEY,
    column_list TEXT NOT NULL CHECK (json_valid(column_list)),
    id      TEXT NOT NULL CHECK (json_valid(id)),
    routing TEXT
) STRICT;

-- How many rows each table has here, kept in the transaction that changes it: counting would scan.
CREATE TABLE tessera_counts (
    name TEXT    NOT NULL PRIMARY KEY,
    rows INTEGER NOT NULL CHECK (rows >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    slot          INTEGER NOT NULL,
    shard_key     TEXT    NOT NULL,
    user_id       TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    email         TEXT    NOT NULL,
    partition_key TEXT,
    version       INTEGER NOT NULL,
    created_at    TEXT    NOT NULL,
    updated_at    TEXT    NOT NULL,
    PRIMARY KEY (slot, shard_key, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE orders (
    slot       INTEGER NOT NULL,
    shard_key  TEXT    NOT NULL,
    order_id   TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    amount     INTEGER NOT NULL,
    status     TEXT,
    note       TEXT,
    version    INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (slot, shard_key, order_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE products (
    slot       INTEGER NOT NULL,
    shard_key  TEXT    NOT NULL,
    product_id TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    price      INTEGER NOT NULL,
    stock      INTEGER NOT NULL,
    attributes TEXT CHECK (json_valid(attributes)),
    version    INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (slot, shard_key, product_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE transactions (
    slot       INTEGER NOT NULL,
    shard_key  TEXT    NOT NULL,
    tx_id      TEXT    NOT NULL,
    account    TEXT    NOT NULL,
    amount     INTEGER NOT NULL,
    memo       TEXT,
    version    INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (slot, shard_key, tx_id)
) STRICT, WITHOUT ROWID;

-- Values may be large (1 MiB): a rowid table keeps them out of the index.
CREATE TABLE kv (
    slot       INTEGER NOT NULL,
    shard_key  TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    value      TEXT    NOT NULL CHECK (json_valid(value)),
    version    INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (slot, shard_key, key)
) STRICT;

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

INSERT INTO tessera_counts (name, rows) SELECT name, 0 FROM tessera_tables;
