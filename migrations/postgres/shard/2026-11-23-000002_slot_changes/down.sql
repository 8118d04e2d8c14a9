DROP TRIGGER tessera_note_inserted ON tessera_slots;
DROP TRIGGER tessera_note_updated ON tessera_slots;
DROP TRIGGER tessera_note_deleted ON tessera_slots;
DROP TRIGGER tessera_note_truncated ON tessera_slots;
DROP FUNCTION tessera_forget, tessera_change_slots, tessera_refused_now, tessera_refused, tessera_note_all_owned;
DROP TABLE tessera_readable;

CREATE OR REPLACE FUNCTION tessera_note_owned() RETURNS TRIGGER LANGUAGE plpgsql AS $$
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
    -- A fence that nobody has lifted in time does not count.
    SELECT array_agg(lacking.slot) INTO strange FROM unnest(strange) AS lacking (slot)
    WHERE NOT EXISTS (
        SELECT FROM tessera.tessera_slots AS own
        WHERE own.slot = lacking.slot AND own.state = 'fenced' AND own.until < clock_timestamp());
    RETURN coalesce(strange, '{}');
END $$;

ALTER TABLE tessera_slots DROP since;
