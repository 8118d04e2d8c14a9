CREATE OR REPLACE FUNCTION tessera_needlessly_recorded() RETURNS SETOF TEXT LANGUAGE sql VOLATILE AS $$
    SELECT name FROM tessera.tessera_moving_tables
    WHERE NOT EXISTS (SELECT FROM tessera.tessera_slot_moves WHERE traced_after IS NOT NULL)
        AND EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = relation AND starts_with(tgname::text, 'tessera_record_') AND tgenabled <> 'D')
$$;
