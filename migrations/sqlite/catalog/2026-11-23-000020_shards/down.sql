UPDATE tessera_cluster SET
    shards = (SELECT json_group_array(json_array(name, weight)) FROM (SELECT name, weight FROM tessera_shards ORDER BY number)),
    ranges = (SELECT json_group_array(json_array(slot, slot, shard))
              FROM (SELECT slot, shard FROM tessera_owners WHERE group_name = 'main' ORDER BY slot))
WHERE EXISTS (SELECT 1 FROM tessera_shards);
DROP TABLE tessera_moving;
DROP TABLE tessera_moves;
DROP TABLE tessera_rebalances;
DROP TABLE tessera_owners;
DROP TABLE tessera_shards;
