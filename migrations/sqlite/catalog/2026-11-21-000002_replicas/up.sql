-- How many replicas each shard has. Unlike the shards themselves it may change at any start.
ALTER TABLE tessera_cluster ADD COLUMN replicas INTEGER NOT NULL DEFAULT 1 CHECK (replicas >= 0);
-- The timeline that each shard's primary began last, as a JSON object: a file that comes with another one was put
-- back from a copy.
ALTER TABLE tessera_cluster ADD COLUMN timelines TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(timelines));
-- What session tokens are signed with, 16 bytes in hex. Never shown, never logged.
ALTER TABLE tessera_cluster ADD COLUMN secret TEXT NOT NULL DEFAULT '';
UPDATE tessera_cluster SET secret = lower(hex(randomblob(16)));
