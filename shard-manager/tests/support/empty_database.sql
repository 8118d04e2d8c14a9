-- Drops the tables of clients, and empties those of the schema.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND relname NOT IN (SELECT t.name FROM tessera.tessera_tables AS t WHERE made_at = 0)
    LOOP
        EXECUTE format('DROP TABLE public.%I', name);
    END LOOP;
    DELETE FROM tessera.tessera_tables WHERE made_at <> 0;
    UPDATE tessera.tessera_tables SET group_number = 0 WHERE group_number <> 0;
    -- A move that has not ended refuses TRUNCATE.
    FOR name IN SELECT format('%I ON %s', tgname, tgrelid::regclass) FROM pg_trigger
        WHERE starts_with(tgname::text, 'tessera_record_')
    LOOP
        EXECUTE 'DROP TRIGGER ' || name;
    END LOOP;
    FOR name IN SELECT oid::regclass FROM pg_class
        WHERE relnamespace IN ('public'::regnamespace, 'tessera'::regnamespace) AND relkind = 'r'
        AND relname NOT IN ('tessera_tables', 'tessera_access', '__diesel_schema_migrations')
        AND pg_relation_size(oid) > 0
    LOOP
        EXECUTE 'TRUNCATE ' || name;
    END LOOP;
    -- A trigger on the slots, which may be truncated after their bits, stores the bits again, as many
    -- as the table groups of the last test needed.
    TRUNCATE tessera.tessera_owned, tessera.tessera_readable, tessera.tessera_followed;
    -- A database without slots has the rows that state so, as after its migrations.
    PERFORM tessera.tessera_note_all_owned();
    UPDATE tessera.tessera_access SET mode = 'off', generation = 1;
    ALTER SEQUENCE tessera.tessera_version RESTART;
    ALTER SEQUENCE tessera.tessera_tables_changed RESTART;
END $$;
