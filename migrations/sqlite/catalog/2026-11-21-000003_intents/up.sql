-- A table that is being made, or taken back, on every shard: written before the first shard is touched and removed
-- after the last, so that whoever starts next knows what to finish.
CREATE TABLE tessera_intents (
    name        TEXT NOT NULL PRIMARY KEY,
    state       TEXT NOT NULL CHECK (state IN ('make', 'undo')),
    declaration TEXT NOT NULL CHECK (json_valid(declaration)),
    at          TEXT NOT NULL
) STRICT;
