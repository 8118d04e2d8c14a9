-- Tables with triggers that record changes although no move needs them. The target of a move needs them as soon as its
-- copy is whole: they are enabled before the activation, because writes wait during it.
CREATE OR REPLACE FUNCTION tessera_needlessly_recorded() RETURNS SETOF TEXT LANGUAGE sql VOLATILE AS $$
    SELECT name FROM tessera.tessera_moving_tables
    WHERE NOT EXISTS (
            SELECT FROM tessera.tessera_slot_moves
            WHERE traced_after IS NOT NULL OR (role = 'target' AND cursor = 'whole'))
        AND EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = relation AND starts_with(tgname::text, 'tessera_record_') AND tgenabled <> 'D')
$$;
