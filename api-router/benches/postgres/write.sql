\set k random(1, 1000000000)
INSERT INTO users (slot, shard_key, user_id, name, email, partition_key, version, created_at, updated_at) VALUES ((:k % 16384)::int, 'd_' || :k, 'd_' || :k, 'John Doe', 'd_' || :k || '@example.com', 'A', 1, now(), now());
