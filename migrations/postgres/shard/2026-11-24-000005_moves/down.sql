DO $$
DECLARE
    each RECORD;
BEGIN
    FOR each IN SELECT tgname, tgrelid::regclass AS relation FROM pg_trigger WHERE starts_with(tgname::text, 'tessera_record_') LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', each.tgname, each.relation);
    END LOOP;
    FOR each IN SELECT oid::regprocedure AS signature FROM pg_proc
        WHERE pronamespace = 'tessera'::regnamespace AND starts_with(proname::text, 'tessera_record_')
    LOOP
        EXECUTE format('DROP FUNCTION %s', each.signature);
    END LOOP;
END $$;
DROP FUNCTION tessera_has_change, tessera_has_rows, tessera_disable_recording, tessera_needlessly_recorded,
    tessera_enable_recording, tessera_unrecorded, tessera_refuse_truncate, tessera_follow, tessera_lock_move;
DROP VIEW tessera_moving_tables;
DROP TABLE tessera_changes, tessera_followed, tessera_slot_moves;
