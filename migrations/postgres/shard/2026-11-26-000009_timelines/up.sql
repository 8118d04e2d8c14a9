-- System identifier and timeline of the server on which versions were last drawn. Empty and 0: not known.
ALTER TABLE tessera_shard ADD system TEXT NOT NULL DEFAULT '', ADD timeline BIGINT NOT NULL DEFAULT 0;

-- Called by each session that may draw versions, before it draws the first. A promoted server may lack the last
-- transactions of its predecessor, whose versions clients may still hold. So each new timeline skips 2^36 versions,
-- once for every timeline number since the recorded one. Two replicas may be promoted to the same timeline number, so
-- it also skips a random number below 2^35. Each gap is enough for 8 million transactions, and 2^53 for at least
-- 87381 timelines.
CREATE FUNCTION tessera_begin_timeline() RETURNS VOID LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    own_system   TEXT := (SELECT system_identifier::text FROM pg_control_system());
    own_timeline BIGINT := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
    known        RECORD;
BEGIN
    IF EXISTS (SELECT FROM tessera.tessera_shard WHERE system = own_system AND timeline = own_timeline) THEN
        RETURN;
    END IF;
    -- Do not wait for a synchronous replica: there may be none yet after a promotion. If this commit is lost, so is
    -- everything drawn after it.
    PERFORM set_config('synchronous_commit', 'local', true);
    SELECT system, timeline INTO known FROM tessera.tessera_shard WHERE id = 1 FOR UPDATE;
    IF NOT FOUND OR (known.system = own_system AND known.timeline = own_timeline) THEN
        RETURN;
    END IF;
    -- A new shard on a server that was never promoted has drawn nothing, so nothing is skipped. A promoted server may
    -- not know of the first draws, but it knows its system or its timeline.
    PERFORM setval('tessera.tessera_version', last_value + 4096 * floor(random() * 8388608)::bigint + 68719476736 *
        CASE WHEN known.system = own_system THEN greatest(own_timeline - known.timeline, 1) ELSE 1 END)
    FROM tessera.tessera_version WHERE is_called OR known.system <> '' OR own_timeline > 1;
    UPDATE tessera.tessera_shard SET system = own_system, timeline = own_timeline WHERE id = 1;
END $$;
