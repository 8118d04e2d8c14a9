-- Slots that change their state and their owner while clients read and write.

-- Begin of a fence, by the clock of this server; NULL for a fence without one. A fence counts only between its begin
-- and its end, so a clock that is set back ends the fence early instead of prolonging it.
ALTER TABLE tessera_slots ADD since TIMESTAMPTZ;

-- Slots that this shard answers reads of, in one row like tessera_owned: the owned ones and the fenced ones. A read
-- looks at it in the snapshot of its rows.
CREATE TABLE tessera_readable (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    bits       BYTEA  NOT NULL,
    -- Slots that are not readable, of which rows may lie here; NULL if there are none.
    leftover   BYTEA,
    -- Raised by each change of tessera_slots, except between owned and fenced.
    generation BIGINT NOT NULL
);
-- A row that is larger than a fourth of a page would else be stored in parts.
ALTER TABLE tessera_readable ALTER bits SET STORAGE PLAIN, ALTER leftover SET STORAGE MAIN;

-- Computes tessera_owned and tessera_readable from all slots.
CREATE FUNCTION tessera_note_all_owned() RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    none    BYTEA := decode(repeat('00', 2048), 'hex');
    owned   BYTEA := none;
    shown   BYTEA := none;
    before  BYTEA;
    remains BYTEA;
    each    RECORD;
BEGIN
    SELECT bits, leftover INTO before, remains FROM tessera.tessera_readable WHERE id = 1;
    before := coalesce(before, none);
    remains := coalesce(remains, none);
    FOR each IN
        SELECT n AS slot, state FROM generate_series(0, 16383) AS n LEFT JOIN tessera.tessera_slots ON slot = n
    LOOP
        IF each.state = 'owned' THEN
            owned := set_bit(owned, each.slot, 1);
        END IF;
        IF each.state IN ('owned', 'fenced') THEN
            shown := set_bit(shown, each.slot, 1);
            remains := set_bit(remains, each.slot, 0);
        ELSIF each.state IS NOT NULL OR get_bit(before, each.slot) = 1 THEN
            remains := set_bit(remains, each.slot, 1);
        END IF;
    END LOOP;
    INSERT INTO tessera.tessera_owned VALUES (1, owned) ON CONFLICT (id) DO UPDATE SET bits = excluded.bits;
    INSERT INTO tessera.tessera_readable AS known VALUES (1, shown, nullif(remains, none), 1)
    ON CONFLICT (id) DO UPDATE
    SET bits = excluded.bits, leftover = excluded.leftover, generation = known.generation + 1;
END $$;

-- Changes the bits of the slots that a statement has changed, and only these: the cost does not depend on the number of
-- slots of the shard. Wakes the routers, which look at the slots again once the transaction is committed.
CREATE OR REPLACE FUNCTION tessera_note_owned() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    none     BYTEA := decode(repeat('00', 2048), 'hex');
    owned    BYTEA;
    shown    BYTEA;
    remains  BYTEA;
    is_new   BOOLEAN := false;
    slots    INTEGER[];
    was      TEXT[];
    becomes  TEXT[];
    is_shown BOOLEAN;
BEGIN
    -- One at a time: of two that change slots, the second sees what the first has left.
    PERFORM pg_advisory_xact_lock(1950, 5);
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM tessera.tessera_note_all_owned();
        PERFORM pg_notify('tessera_slots', '');
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(slot), array_agg(NULL::text), array_agg(state) INTO slots, was, becomes FROM after;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(slot), array_agg(state), array_agg(NULL::text) INTO slots, was, becomes FROM before;
    ELSE
        SELECT array_agg(slot), array_agg(b.state), array_agg(a.state) INTO slots, was, becomes
        FROM before AS b FULL JOIN after AS a USING (slot);
    END IF;
    IF slots IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('tessera_slots', '');
    SELECT bits INTO owned FROM tessera.tessera_owned WHERE id = 1;
    SELECT bits, coalesce(leftover, none) INTO shown, remains FROM tessera.tessera_readable WHERE id = 1;
    IF owned IS NULL OR shown IS NULL THEN
        PERFORM tessera.tessera_note_all_owned();
        RETURN NULL;
    END IF;
    FOR at IN 1..cardinality(slots) LOOP
        CONTINUE WHEN becomes[at] IS NOT DISTINCT FROM was[at];
        owned := set_bit(owned, slots[at], (coalesce(becomes[at], '') = 'owned')::integer);
        is_shown := coalesce(becomes[at], '') IN ('owned', 'fenced');
        IF NOT is_shown OR coalesce(was[at], '') NOT IN ('owned', 'fenced') THEN
            is_new := true;
            shown := set_bit(shown, slots[at], is_shown::integer);
            remains := set_bit(remains, slots[at], (NOT is_shown)::integer);
        END IF;
    END LOOP;
    UPDATE tessera.tessera_owned SET bits = owned WHERE id = 1 AND bits <> owned;
    IF is_new THEN
        UPDATE tessera.tessera_readable
        SET bits = shown, leftover = nullif(remains, none), generation = generation + 1 WHERE id = 1;
    END IF;
    RETURN NULL;
END $$;

-- Only a trigger of a single kind of statement sees the rows that the statement has changed.
DROP TRIGGER tessera_note_owned ON tessera_slots;
CREATE TRIGGER tessera_note_inserted AFTER INSERT ON tessera_slots REFERENCING NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION tessera_note_owned();
CREATE TRIGGER tessera_note_updated AFTER UPDATE ON tessera_slots REFERENCING OLD TABLE AS before NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION tessera_note_owned();
CREATE TRIGGER tessera_note_deleted AFTER DELETE ON tessera_slots REFERENCING OLD TABLE AS before
FOR EACH STATEMENT EXECUTE FUNCTION tessera_note_owned();
CREATE TRIGGER tessera_note_truncated AFTER TRUNCATE ON tessera_slots
FOR EACH STATEMENT EXECUTE FUNCTION tessera_note_owned();

SELECT tessera_note_all_owned();

-- As before, but a fence counts only between its begin and its end.
CREATE OR REPLACE FUNCTION tessera_enter(slots INTEGER[], alone BOOLEAN) RETURNS INTEGER[]
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
    -- A fence that was not lifted in time does not count, nor one that has not begun by this server's clock.
    SELECT array_agg(lacking.slot) INTO strange FROM unnest(strange) AS lacking (slot)
    WHERE NOT EXISTS (
        SELECT FROM tessera.tessera_slots AS own
        WHERE own.slot = lacking.slot AND own.state = 'fenced'
            AND (own.until <= clock_timestamp() OR own.since > clock_timestamp()));
    RETURN coalesce(strange, '{}');
END $$;

-- Returns the reason why a slot is refused, in the snapshot of the statement, as one number: the last two bits are 0 for
-- a slot that this shard has never had or has forgotten, 1 for one that is being imported, 2 for one that has moved, 3
-- for a fenced one. The other bits are the number of the new owner, or the microseconds until the fence ends, at most a
-- minute. An owned slot is one whose fence has just ended.
CREATE FUNCTION tessera_refused(asked INTEGER) RETURNS BIGINT LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce((
        SELECT CASE own.state
            WHEN 'importing' THEN 1
            WHEN 'moved' THEN CASE WHEN own.moved_to ~ '^[0-9]{1,5}$' THEN own.moved_to::bigint * 4 + 2 ELSE 0 END
            WHEN 'owned' THEN 3
            ELSE CASE WHEN own.since > clock.now THEN 3 ELSE 3 + 4 * greatest(0, (extract(epoch FROM
                least(own.until, clock.now + interval '1 minute') - clock.now) * 1000000)::bigint) END
        END
        FROM tessera.tessera_slots AS own, (SELECT clock_timestamp() AS now OFFSET 0) AS clock
        WHERE own.slot = asked), 0)
$$;

-- The same in a snapshot of its own, for a statement that has waited for the fence lock since its snapshot was taken.
CREATE FUNCTION tessera_refused_now(asked INTEGER) RETURNS BIGINT LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN tessera.tessera_refused(asked);
END $$;

-- Changes all of these slots or none: `fence` (owned and fenced slots accept no writes for this many milliseconds),
-- `release` (fenced slots accept writes again), `hand over` (owned and fenced slots belong to the shard with this
-- number) or `take over` (slots that are not owned are owned). Slots that are as they are meant to be stay so. Returns
-- the slots that forbid the change because they are not owned; NULL if a lock was not free in time.
--
-- All writes that were accepted before hold the fence lock, so they are finished when this begins to look, with a
-- snapshot taken after that: VOLATILE, and READ COMMITTED.
CREATE FUNCTION tessera_change_slots(asked INTEGER[], step TEXT, hold BIGINT, new_owner TEXT) RETURNS INTEGER[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    began   TIMESTAMPTZ;
    strange INTEGER[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tessera_change_slots needs READ COMMITTED';
    END IF;
    -- Writes that come later wait behind this one.
    PERFORM set_config('lock_timeout', '250ms', true);
    PERFORM pg_advisory_xact_lock(1950, 1);
    IF step <> 'take over' THEN
        SELECT array_agg(slot ORDER BY slot) INTO strange FROM unnest(asked) AS slot
        WHERE NOT EXISTS (
            SELECT FROM tessera.tessera_slots AS own
            WHERE own.slot = slot.slot AND (own.state IN ('owned', 'fenced')
                OR step = 'hand over' AND own.state = 'moved' AND own.moved_to = new_owner));
        IF strange IS NOT NULL THEN
            RETURN strange;
        END IF;
    END IF;
    began := clock_timestamp();
    IF step = 'fence' THEN
        UPDATE tessera.tessera_slots
        SET state = 'fenced', since = began, until = began + hold * interval '1 millisecond'
        WHERE slot = ANY(asked);
    ELSIF step = 'release' THEN
        UPDATE tessera.tessera_slots SET state = 'owned', since = NULL, until = NULL
        WHERE slot = ANY(asked) AND state = 'fenced';
    ELSIF step = 'hand over' THEN
        UPDATE tessera.tessera_slots SET state = 'moved', moved_to = new_owner, since = NULL, until = NULL
        WHERE slot = ANY(asked) AND state <> 'moved';
    ELSIF step = 'take over' THEN
        INSERT INTO tessera.tessera_slots AS own (slot, state) SELECT slot, 'owned' FROM unnest(asked) AS slot
        ON CONFLICT (slot) DO UPDATE SET state = 'owned', moved_to = NULL, since = NULL, until = NULL
        WHERE own.state NOT IN ('owned', 'fenced');
    ELSE
        RAISE EXCEPTION 'unknown change of slots %', step;
    END IF;
    RETURN '{}';
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END $$;

-- Removes up to `most` records of idempotency keys that were created from `first` on and before `last`, oldest first,
-- except those that another transaction has locked, and those of slots that accept no writes here: another shard may
-- hold a copy of these. Returns their number.
CREATE FUNCTION tessera_forget(first TIMESTAMPTZ, last TIMESTAMPTZ, most INTEGER) RETURNS BIGINT
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    owned   BYTEA;
    removed BIGINT;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tessera_forget needs READ COMMITTED';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(1950, 1);
    SELECT bits INTO STRICT owned FROM tessera.tessera_owned WHERE id = 1;
    DELETE FROM tessera.tessera_idempotency WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM tessera.tessera_idempotency
        WHERE created_at >= first AND created_at < last AND get_bit(owned, slot) = 1
        ORDER BY created_at LIMIT most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;
