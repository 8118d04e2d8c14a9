-- System identifier and timeline of the server on which versions were last drawn. Empty and 0: not known.
ALTER TABLE tessera_shard ADD system TEXT NOT NULL DEFAULT '', ADD timeline BIGINT NOT NULL DEFAULT 0;

-- Called by each session that may draw versions, before it draws the first. The server may have been promoted without
-- the last transactions of its predecessor, whose versions clients may still hold. So a new timeline skips 2^36 versions,
-- and as many for each timeline that is missing here because it was lost as a whole. Another replica may have been
-- promoted to a timeline of the same number, so a timeline begins with a random one of the next 2^35 versions. The gaps
-- are enough for 8 million transactions. Clients can represent 2^53 exactly, which is enough for 87381 timelines.
CREATE FUNCTION tessera_begin_timeline() RETURNS VOID LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    own_system   TEXT := (SELECT system_identifier::text FROM pg_control_system());
    own_timeline BIGINT := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
    known        RECORD;
BEGIN
    IF EXISTS (SELECT FROM tessera.tessera_shard WHERE system = own_system AND timeline = own_timeline) THEN
        RETURN;
    END IF;
    -- A promoted server may wait long for its first synchronous replica. What is drawn after this commit is lost with it.
    PERFORM set_config('synchronous_commit', 'local', true);
    SELECT system, timeline INTO known FROM tessera.tessera_shard WHERE id = 1 FOR UPDATE;
    IF NOT FOUND OR (known.system = own_system AND known.timeline = own_timeline) THEN
        RETURN;
    END IF;
    -- From the counter of a new shard nothing was drawn. That of a promoted server may lack the first draws.
    PERFORM setval('tessera.tessera_version', last_value + 4096 * floor(random() * 8388608)::bigint + 68719476736 *
        CASE WHEN known.system = own_system THEN greatest(own_timeline - known.timeline, 1) ELSE 1 END)
    FROM tessera.tessera_version WHERE is_called OR known.system <> '';
    UPDATE tessera.tessera_shard SET system = own_system, timeline = own_timeline WHERE id = 1;
END $$;
