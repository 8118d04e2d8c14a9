-- Fails if there are slots of other groups: their rows would have no place.
ALTER TABLE tessera_slots DROP CONSTRAINT tessera_slots_slot_check,
    ADD CONSTRAINT tessera_slots_slot_check CHECK (slot BETWEEN 0 AND 16383);
UPDATE tessera_owned SET bits = substr(bits, 1, 2048);
UPDATE tessera_readable SET bits = substr(bits, 1, 2048), leftover = substr(leftover, 1, 2048);
UPDATE tessera_followed SET bits = substr(bits, 1, 2048);
ALTER TABLE tessera_owned ALTER bits SET STORAGE PLAIN;
ALTER TABLE tessera_readable ALTER bits SET STORAGE PLAIN;
ALTER TABLE tessera_followed ALTER bits SET STORAGE PLAIN;

CREATE OR REPLACE FUNCTION tessera_note_all_owned() RETURNS VOID LANGUAGE plpgsql AS $$
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

CREATE OR REPLACE FUNCTION tessera_follow(asked INTEGER[], is_followed BOOLEAN) RETURNS VOID
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

DROP FUNCTION tessera_widen(INTEGER);
ALTER TABLE tessera_tables DROP group_number;
