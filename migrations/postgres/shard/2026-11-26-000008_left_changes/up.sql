-- Begins or ends the recording of changes of slots. Recorded changes that are left over are deleted when a recording
-- begins. A long recording may leave millions, and writes wait while it ends, so those are deleted afterwards, in batches.
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
    IF is_followed THEN
        DELETE FROM tessera.tessera_changes AS change WHERE change.slot = ANY(asked);
    END IF;
END $$;
