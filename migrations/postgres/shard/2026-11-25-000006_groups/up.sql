-- Groups of tables: slots of further groups have numbers above those of the group main.

-- The group that a table belongs to. 0: main.
ALTER TABLE tessera_tables ADD group_number BIGINT NOT NULL DEFAULT 0;

ALTER TABLE tessera_slots DROP CONSTRAINT tessera_slots_slot_check,
    ADD CONSTRAINT tessera_slots_slot_check CHECK (slot BETWEEN 0 AND 65535);

-- Gives the bits of the slots at least this many bytes, 2048 for each group. A shard has the bits of all groups of the
-- cluster, also of those of which it owns no slots: reads and writes look at a bit without asking for its existence.
CREATE FUNCTION tessera_widen(wanted INTEGER) RETURNS VOID LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF wanted <= (SELECT length(bits) FROM tessera.tessera_owned WHERE id = 1) THEN
        RETURN;
    END IF;
    IF wanted > 6144 THEN
        -- A page has no room for the bits of four groups: they are compressed, or stored in parts.
        ALTER TABLE tessera.tessera_owned ALTER bits SET STORAGE MAIN;
        ALTER TABLE tessera.tessera_readable ALTER bits SET STORAGE MAIN;
        ALTER TABLE tessera.tessera_followed ALTER bits SET STORAGE MAIN;
    END IF;
    PERFORM pg_advisory_xact_lock(1950, 5);
    UPDATE tessera.tessera_owned
    SET bits = bits || decode(repeat('00', wanted - length(bits)), 'hex') WHERE length(bits) < wanted;
    UPDATE tessera.tessera_readable
    SET bits = bits || decode(repeat('00', wanted - length(bits)), 'hex'),
        leftover = leftover || decode(repeat('00', wanted - length(leftover)), 'hex'), generation = generation + 1
    WHERE length(bits) < wanted;
    UPDATE tessera.tessera_followed
    SET bits = bits || decode(repeat('00', wanted - length(bits)), 'hex') WHERE length(bits) < wanted;
    PERFORM pg_notify('tessera_slots', '');
END $$;

-- As before, for the bits of as many groups as there are.
CREATE OR REPLACE FUNCTION tessera_note_all_owned() RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    none    BYTEA;
    owned   BYTEA;
    shown   BYTEA;
    before  BYTEA;
    remains BYTEA;
    each    RECORD;
BEGIN
    -- As many bytes as there were, and as the slots need: 2048 for each group.
    SELECT decode(repeat('00', greatest(2048,
        coalesce((SELECT length(bits) FROM tessera.tessera_owned WHERE id = 1), 0),
        coalesce((SELECT length(bits) FROM tessera.tessera_readable WHERE id = 1), 0),
        coalesce((SELECT (max(slot) / 16384 + 1) * 2048 FROM tessera.tessera_slots), 0))), 'hex') INTO none;
    owned := none;
    shown := none;
    SELECT bits, leftover INTO before, remains FROM tessera.tessera_readable WHERE id = 1;
    before := coalesce(before, none);
    remains := coalesce(remains, none);
    before := before || substr(none, length(before) + 1);
    remains := remains || substr(none, length(remains) + 1);
    FOR each IN
        SELECT n AS slot, state FROM generate_series(0, length(none) * 8 - 1) AS n LEFT JOIN tessera.tessera_slots ON slot = n
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
    none     BYTEA;
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
    PERFORM tessera.tessera_widen((max(slot) / 16384 + 1) * 2048) FROM unnest(slots) AS slot;
    SELECT bits INTO owned FROM tessera.tessera_owned WHERE id = 1;
    none := decode(repeat('00', length(owned)), 'hex');
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
    INSERT INTO tessera.tessera_followed
    SELECT 1, decode(repeat('00', length(bits)), 'hex') FROM tessera.tessera_owned WHERE id = 1
    ON CONFLICT (id) DO NOTHING;
    SELECT bits INTO STRICT known FROM tessera.tessera_followed WHERE id = 1 FOR UPDATE;
    FOREACH slot IN ARRAY asked LOOP
        known := set_bit(known, slot, is_followed::integer);
    END LOOP;
    UPDATE tessera.tessera_followed SET bits = known WHERE id = 1 AND bits <> known;
    DELETE FROM tessera.tessera_changes AS change WHERE change.slot = ANY(asked);
END $$;
