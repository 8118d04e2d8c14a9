\set k random(0, 29999)
SELECT user_id, name, email, partition_key, version, created_at, updated_at FROM users WHERE slot = (:k % 16384)::int AND shard_key = 'd_' || :k ORDER BY user_id LIMIT 10;
