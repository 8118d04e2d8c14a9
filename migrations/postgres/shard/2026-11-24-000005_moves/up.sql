-- Slots that move from one shard to another while clients read and write: the part of this shard in each move, and the
-- changes that a move follows.

-- Rows of moves in which this shard takes part, few at a time. The catalog may share this database, and has a list of
-- moves of its own (tessera_moves).
CREATE TABLE tessera_slot_moves (
    -- A UUID.
    id                  TEXT    NOT NULL PRIMARY KEY,
    -- Part of the shard in this leg, and number of the other shard.
    role                TEXT    NOT NULL CHECK (role IN ('source', 'target')),
    other               INTEGER NOT NULL,
    -- Numbers of the slots as a JSON array, in order. A slot is in one row at most.
    slots               TEXT    NOT NULL,
    leg                 BIGINT  NOT NULL,
    -- Term of the mover that may change the row. The mover's own number has 64 bits.
    term                BIGINT  NOT NULL,
    mover               TEXT    NOT NULL,
    -- State of the other shard that the rows here have. The mark is a snapshot; NULL: no change of this stream.
    pass                BIGINT  NOT NULL,
    round               BIGINT  NOT NULL,
    feed_timeline       BIGINT  NOT NULL,
    feed_begun_timeline BIGINT  NOT NULL,
    feed_begun          BIGINT  NOT NULL,
    mark                TEXT,
    -- Extent of the rows here: empty, through (the key in copied_to), or whole.
    cursor              TEXT    NOT NULL CHECK (cursor IN ('empty', 'through', 'whole')),
    copied_to           TEXT,
    -- Position of this shard after which changes of the slots are recorded; NULL: they are not.
    traced_after        BIGINT,
    -- Position of this shard when the row was made.
    begun_timeline      BIGINT  NOT NULL,
    begun               BIGINT  NOT NULL,
    -- Version counter at the commit.
    version             BIGINT  NOT NULL,
    -- Position of the other shard below which nothing is read there.
    home_timeline       BIGINT,
    home                BIGINT,
    -- System identifier of the server that has stored the row. Marks and recorded changes name its transactions: in a
    -- database that was restored on another server they mean nothing.
    system              TEXT    NOT NULL,
    CHECK ((cursor = 'through') = (copied_to IS NOT NULL)),
    CHECK ((home_timeline IS NULL) = (home IS NULL))
);

-- Slots whose changes are recorded, a bit for each. Kept by the transaction that changes the row of their move.
CREATE TABLE tessera_followed (
    id   BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    bits BYTEA  NOT NULL
);
ALTER TABLE tessera_followed ALTER bits SET STORAGE PLAIN;

-- Recorded changes: the key of each row that a transaction has inserted, updated or deleted in these slots. The number
-- of a transaction says whether a snapshot shows its changes; a counter would miss those that commit later.
CREATE TABLE tessera_changes (
    xid        XID8    NOT NULL,
    table_name TEXT    COLLATE "C" NOT NULL,
    slot       INTEGER NOT NULL,
    shard_key  TEXT    COLLATE "C" NOT NULL,
    -- Values of the columns of the table's id.
    ids        TEXT[]  COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE INDEX tessera_changes_xid ON tessera_changes (xid);

-- Takes the locks of a change of a move until the transaction ends, in an order that all changes have: the lock of the
-- move; if it begins one, that of all moves; if it begins to record changes, those of the tables and of the triggers;
-- the fence lock, which waits for all writes that were accepted before. Returns NULL, or a description of the holder of
-- a lock that was not free in time; nothing is locked then.
CREATE FUNCTION tessera_lock_move(move_id TEXT, begins BOOLEAN, records BOOLEAN, fences BOOLEAN) RETURNS TEXT
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    holder TEXT := 'another change of the move';
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tessera_lock_move needs READ COMMITTED';
    END IF;
    PERFORM set_config('lock_timeout', '250ms', true);
    PERFORM pg_advisory_xact_lock(hashtextextended(move_id, 1950));
    IF begins THEN
        holder := 'the beginning of another move';
        PERFORM pg_advisory_xact_lock(1950, 8);
    END IF;
    IF records THEN
        holder := 'a change of the tables';
        PERFORM pg_advisory_xact_lock_shared(1950, 2);
        holder := 'a change of the triggers of another move';
        PERFORM pg_advisory_xact_lock_shared(1950, 7);
    END IF;
    IF fences THEN
        holder := 'a write';
        PERFORM pg_advisory_xact_lock(1950, 1);
    END IF;
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RETURN holder;
END $$;

-- Begins or ends the recording of changes of slots. Records of them that are left over are removed.
CREATE FUNCTION tessera_follow(asked INTEGER[], is_followed BOOLEAN) RETURNS VOID
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known BYTEA;
    slot  INTEGER;
BEGIN
    INSERT INTO tessera.tessera_followed VALUES (1, decode(repeat('00', 2048), 'hex')) ON CONFLICT (id) DO NOTHING;
    SELECT bits INTO STRICT known FROM tessera.tessera_followed WHERE id = 1 FOR UPDATE;
    FOREACH slot IN ARRAY asked LOOP
        known := set_bit(known, slot, is_followed::integer);
    END LOOP;
    UPDATE tessera.tessera_followed SET bits = known WHERE id = 1 AND bits <> known;
    DELETE FROM tessera.tessera_changes AS change WHERE change.slot = ANY(asked);
END $$;

-- Refuses TRUNCATE while changes are recorded: it names no rows.
CREATE FUNCTION tessera_refuse_truncate() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'slots of % move: delete rows instead, or wait until the move has ended', TG_TABLE_NAME;
END $$;

-- Tables whose rows move, with their schemas.
CREATE VIEW tessera_moving_tables AS
    SELECT name, format('public.%I', name)::regclass AS relation FROM tessera_tables
    UNION ALL SELECT 'tessera_idempotency', 'tessera.tessera_idempotency'::regclass;

-- Tables without triggers that record changes.
CREATE FUNCTION tessera_unrecorded() RETURNS SETOF TEXT LANGUAGE sql VOLATILE AS $$
    SELECT name FROM tessera.tessera_moving_tables WHERE 4 > (
        SELECT count(*) FROM pg_trigger
        WHERE tgrelid = relation AND starts_with(tgname::text, 'tessera_record_') AND tgenabled IN ('O', 'A'))
$$;

-- Makes and enables the triggers of a table that record changes of followed slots. `ids` are the columns of its id;
-- `settings` make texts of their values exact. Returns NULL, or a description of the holder of a lock that was not free
-- in time.
--
-- A write locks its table before it takes the fence lock, or after it, so the locks of tables are never taken under the
-- fence lock: the triggers of all tables are enabled first, and record nothing until a slot is followed. The first lock
-- makes autovacuum give way, and writes do not wait for it.
CREATE FUNCTION tessera_enable_recording(name TEXT, ids TEXT[], settings TEXT) RETURNS TEXT
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    relation REGCLASS;
    ids_text TEXT;
    holder   TEXT := 'maintenance of the table ' || name;
BEGIN
    SELECT own.relation INTO relation FROM tessera.tessera_moving_tables AS own
    WHERE own.name = tessera_enable_recording.name;
    IF relation IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '3s', true);
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', relation);
    holder := 'a change of the triggers of another move';
    PERFORM pg_advisory_xact_lock(1950, 7);
    SELECT string_agg(format('changed.%I::text', id), ',' ORDER BY number) INTO ids_text
    FROM unnest(ids) WITH ORDINALITY AS own (id, number);
    EXECUTE format($function$
        CREATE OR REPLACE FUNCTION tessera.%1$I() RETURNS TRIGGER LANGUAGE plpgsql %2$s AS $body$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                INSERT INTO tessera.tessera_changes
                SELECT pg_current_xact_id(), %3$L, changed.slot, changed.shard_key, ARRAY[%4$s] FROM after AS changed
                WHERE get_bit((SELECT own.bits FROM tessera.tessera_followed AS own WHERE own.id = 1), changed.slot) = 1;
            ELSIF TG_OP = 'DELETE' THEN
                INSERT INTO tessera.tessera_changes
                SELECT pg_current_xact_id(), %3$L, changed.slot, changed.shard_key, ARRAY[%4$s] FROM before AS changed
                WHERE get_bit((SELECT own.bits FROM tessera.tessera_followed AS own WHERE own.id = 1), changed.slot) = 1;
            ELSE
                INSERT INTO tessera.tessera_changes
                SELECT pg_current_xact_id(), %3$L, changed.slot, changed.shard_key, ARRAY[%4$s] FROM before AS changed
                WHERE get_bit((SELECT own.bits FROM tessera.tessera_followed AS own WHERE own.id = 1), changed.slot) = 1
                UNION
                SELECT pg_current_xact_id(), %3$L, changed.slot, changed.shard_key, ARRAY[%4$s] FROM after AS changed
                WHERE get_bit((SELECT own.bits FROM tessera.tessera_followed AS own WHERE own.id = 1), changed.slot) = 1;
            END IF;
            RETURN NULL;
        END $body$
        $function$, 'tessera_record_' || name, settings, name, ids_text);
    holder := 'a write of the table ' || name;
    PERFORM set_config('lock_timeout', '250ms', true);
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'tessera_record_inserted') THEN
        EXECUTE format(
            'CREATE TRIGGER tessera_record_inserted AFTER INSERT ON %s REFERENCING NEW TABLE AS after
             FOR EACH STATEMENT EXECUTE FUNCTION tessera.%I()', relation, 'tessera_record_' || name);
        EXECUTE format(
            'CREATE TRIGGER tessera_record_updated AFTER UPDATE ON %s
             REFERENCING OLD TABLE AS before NEW TABLE AS after
             FOR EACH STATEMENT EXECUTE FUNCTION tessera.%I()', relation, 'tessera_record_' || name);
        EXECUTE format(
            'CREATE TRIGGER tessera_record_deleted AFTER DELETE ON %s REFERENCING OLD TABLE AS before
             FOR EACH STATEMENT EXECUTE FUNCTION tessera.%I()', relation, 'tessera_record_' || name);
        EXECUTE format(
            'CREATE TRIGGER tessera_record_truncated BEFORE TRUNCATE ON %s
             FOR EACH STATEMENT EXECUTE FUNCTION tessera.tessera_refuse_truncate()', relation);
    END IF;
    EXECUTE format(
        'ALTER TABLE %s ENABLE TRIGGER tessera_record_inserted, ENABLE TRIGGER tessera_record_updated,
         ENABLE TRIGGER tessera_record_deleted, ENABLE TRIGGER tessera_record_truncated', relation);
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RETURN holder;
END $$;

-- Tables with triggers that record changes although no slot is followed.
CREATE FUNCTION tessera_needlessly_recorded() RETURNS SETOF TEXT LANGUAGE sql VOLATILE AS $$
    SELECT name FROM tessera.tessera_moving_tables
    WHERE NOT EXISTS (SELECT FROM tessera.tessera_slot_moves WHERE traced_after IS NOT NULL)
        AND EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = relation AND starts_with(tgname::text, 'tessera_record_') AND tgenabled <> 'D')
$$;

-- Disables the triggers of a table that record changes, unless a slot is followed. Returns false if a lock was not free
-- in time.
CREATE FUNCTION tessera_disable_recording(name TEXT) RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    relation REGCLASS;
BEGIN
    PERFORM set_config('lock_timeout', '250ms', true);
    SELECT own.relation INTO relation FROM tessera.tessera_moving_tables AS own
    WHERE own.name = tessera_disable_recording.name;
    IF relation IS NULL THEN
        RETURN true;
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', relation);
    PERFORM pg_advisory_xact_lock(1950, 7);
    IF EXISTS (SELECT FROM tessera.tessera_needlessly_recorded() AS own (name)
        WHERE own.name = tessera_disable_recording.name)
    THEN
        EXECUTE format(
            'ALTER TABLE %s DISABLE TRIGGER tessera_record_inserted, DISABLE TRIGGER tessera_record_updated,
             DISABLE TRIGGER tessera_record_deleted, DISABLE TRIGGER tessera_record_truncated', relation);
    END IF;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

-- Returns true if there are rows of these slots.
CREATE FUNCTION tessera_has_rows(asked INTEGER[]) RETURNS BOOLEAN LANGUAGE plpgsql STABLE AS $$
DECLARE
    each  RECORD;
    found BOOLEAN;
BEGIN
    FOR each IN SELECT relation FROM tessera.tessera_moving_tables LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE slot = ANY($1))', each.relation) INTO found USING asked;
        IF found THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;

-- Returns true if a change of these slots is recorded that this snapshot does not show; NULL shows none.
CREATE FUNCTION tessera_has_change(asked INTEGER[], seen TEXT) RETURNS BOOLEAN LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF seen IS NULL THEN
        RETURN EXISTS (SELECT FROM tessera.tessera_changes AS change WHERE change.slot = ANY(asked));
    END IF;
    RETURN EXISTS (SELECT FROM tessera.tessera_changes AS change
        WHERE change.slot = ANY(asked) AND change.xid >= pg_snapshot_xmin(seen::pg_snapshot)
            AND NOT pg_visible_in_snapshot(change.xid, seen::pg_snapshot));
END $$;
