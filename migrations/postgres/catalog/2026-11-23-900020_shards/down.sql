UPDATE tessera_cluster SET
    shards = (SELECT json_agg(json_build_array(name, weight) ORDER BY number)::text FROM tessera_shards),
    ranges = (SELECT json_agg(json_build_array(slot, slot, shard) ORDER BY slot)::text FROM tessera_owners
              WHERE group_name = 'main')
WHERE EXISTS (SELECT FROM tessera_shards);
DROP TABLE tessera_moving;
DROP TABLE tessera_moves;
DROP TABLE tessera_rebalances;
DROP TABLE tessera_owners;
DROP TABLE tessera_shards;
