//! Codes: the table of all codes of problems, with the status, title and explanation of each.
//!
//! **Invariant:** this is the router's only table of codes. A code is never reused for another
//! meaning, and the analytics service, which has a table of its own, uses codes with the meanings
//! they have here; only TSR001 is a code of the service alone.
//! **Not here:** the code of an error of the domain (`problem/domain`), the other fields of a
//! problem (`problem`).

analytics::problem_codes! {
    /// The code of a problem. Codes are never reused for another meaning.
    pub enum Code;

    TSR003 503 true  "No connection free" "Every connection to the shard was busy until the deadline. Retry later, or with a longer x-deadline-ms.";
    TSR004 504 true  "Deadline passed" "The answer did not come before x-deadline-ms (default 5000). For a write, outcome says whether it may have been stored.";
    TSR005 503 true  "Overloaded" "The shard's write queue is full, the maximum number of event streams is open, the memory for request bodies, for large responses or for the rows of reads is exhausted, or the router is shutting down: the detail says which. Nothing was stored, except the rows before next_index of a streamed body. Retry after Retry-After.";
    TSR006 503 true  "Rights unknown" "The router cannot know the rights of the caller now: the keys of the token's issuer were not read yet, or keys and roles were last read too long ago. Nothing was stored; send again after Retry-After.";
    TSR100 400 false "Bad query string" "A parameter of the query string is unknown, malformed or given twice, or the key in the path is not a valid shard key. The detail names it.";
    TSR101 400 false "Bad body" "The body is not JSON, or a member is missing, given twice or of the wrong type. The detail names it.";
    TSR102 400 false "Unknown member" "The body has an unknown member. The detail names it.";
    TSR103 400 false "Shard keys differ" "Header, query, body and the table's routing column must all name the same shard key: otherwise the row would be stored where no read finds it.";
    TSR104 400 false "Shard key needed" "A write needs a shard key: the table's routing column in the row, the header x-shard-key, or shardKey in query or body. For /api/kv/{key} it is the rest of the path.";
    TSR105 400 false "Unknown preference" "Prefer: handling=strict was sent with an unknown preference. The detail names it.";
    TSR106 400 false "Bad page" "limit is 0 to 1000, offset 0 to 10000, and a cursor is next_cursor of the same query, unchanged.";
    TSR107 406 false "Media type not supported" "The Accept header excludes JSON (406), or the Content-Type or Content-Encoding of the body is not supported (415). Bodies are JSON, those of bulk writes also NDJSON or CSV, and may be compressed with gzip.";
    TSR108 413 false "Too large" "The body, its nesting, a row or the number of rows exceeds a limit. The detail names it.";
    TSR109 422 false "Idempotency key reused" "The Idempotency-Key was used before for a different request under this shard key. Nothing was stored; a new request needs a new key.";
    TSR111 404 false "No such path" "There is nothing at this path. / lists what there is.";
    TSR112 405 false "Method not allowed" "The path exists, but not for this method. The Allow header lists those it has.";
    TSR113 400 false "Bad header" "The value of a header cannot be used. The detail names the header and what is allowed.";
    TSR201 503 true  "Shard unavailable" "The shard that the request needs does not answer. The other shards are up.";
    TSR202 503 true  "No primary" "None of the shard's nodes takes writes now: its primary is gone, and no other was promoted before the deadline. Nothing was stored; reads at level one go on.";
    TSR203 503 true  "Slot is moving" "The key's slot was fenced, or had no owner that the router could find, until the deadline; or too many writes waited for such slots. Nothing was stored. Retry shortly.";
    TSR204 503 true  "Storage full" "The shard's storage takes no more writes. Nothing was stored; reads go on.";
    TSR205 504 true  "Not confirmed" "The row is stored on the shard's primary, but replicas did not confirm it before the deadline. outcome is committed, achieved is the level that it has reached.";
    TSR301 409 false "Exists already" "A row with this id exists, or a table of this name with a different definition. Nothing was changed.";
    TSR302 404 false "No such row" "No row has this id under this shard key, or there is no value under the key.";
    TSR303 412 false "Version differs" "The row is not of the version that the request names (If-Match, or if_version in a bulk write): another client changed it. Read it again.";
    TSR304 409 false "Constraint violation" "The row violates a constraint of the database: unique, foreign key or check.";
    TSR305 409 false "What was seen may be lost" "The session has seen changes that the shard no longer has: a failover lost them, or an older copy was restored. Start a new session without the token, and check your data.";
    TSR306 409 false "Write discarded by the database" "A trigger, rule or row security policy discarded the row, or the table is UNLOGGED and a crash would empty it. Nothing was stored. The operator of the database has to change the table first.";
    TSR310 404 false "No such table" "There is no table of this name.";
    TSR311 400 false "No such column" "The table has no column of this name.";
    TSR312 400 false "Value does not fit" "A value is not of its column's type, is null where null is not allowed, or holds U+0000.";
    TSR320 404 false "No such shard" "The cluster has no shard of this name, or it has retired. Nothing was changed.";
    TSR321 400 false "Bad shard" "The name, the weight or the URL of a shard cannot be used: the detail says which and why. A name has 1 to 63 letters, digits, - and _, and begins with a letter. A URL names an empty database without password; a cluster of files takes none. Nothing was changed.";
    TSR322 409 false "Database in use" "The database of the new shard contains tables or rows, or belongs to another shard or another cluster. Nothing was changed, also not in that database.";
    TSR323 409 true  "Database unreachable" "The server of the new shard's database does not answer this router. Nothing was changed; the same request may succeed once it answers.";
    TSR324 409 false "Database not suitable" "The server or the database of the new shard lacks something: the version, a right, a setting, replicas, or room. The detail names it. Nothing was changed.";
    TSR325 409 false "Credentials missing" "The URL of a new shard holds no password, and the router's own settings have no user for that host and port. Nothing was changed.";
    TSR326 409 false "Shard state conflict" "The shard is not in a state that permits the change: it owns slots, holds the catalog, has another weight, or has retired, another shard has the name, or there are too many shards or open moves. The detail says which. Nothing was changed.";
    TSR327 412 false "Shard map differs" "The shard map is not of the epoch that If-Match names, or has changed during the request. Nothing was changed.";
    TSR328 400 false "Bad fence" "The slots or the time of a fence cannot be used: slots are 0 to 16383, or more if there are further table groups, and belong to the named shard if there is one; a fence lasts for at most 60 seconds. Nothing was changed.";
    TSR329 409 false "Placed by the engine" "The engine distributes rows over its nodes by itself, so that its shards and slots are not changed here. Nothing was changed.";
    TSR330 400 false "Bad move" "The description of a move cannot be used: the detail names the member and what is allowed. A move takes 1 to 64 slots of one shard to another one. Nothing was changed.";
    TSR331 404 false "No such move" "There is no move of this id, or it ended so long ago that it is not listed any more. Nothing was changed.";
    TSR332 409 false "Move state conflict" "The move is not in a state that permits the order: a move is cancelled before its target owns the slots, rolled back or settled afterwards, and retried when it has ended without success. Nothing was changed.";
    TSR333 409 false "Slots move already" "Another move has some of the slots, until it ends. The detail names these slots and the move. Nothing was changed.";
    TSR334 409 false "Slots of another shard" "The shard that is named as the source of a move does not own all of the slots: the detail names those that it lacks. Nothing was changed.";
    TSR335 400 false "Bad rebalance" "The description of a rebalance cannot be used: the detail names the member and what is allowed. A placement must fit the shards and the keyspace of the cluster, and by=load needs a router that counts requests. Nothing was begun.";
    TSR336 404 false "No such rebalance" "There is no rebalance of this id, or it ended so long ago that it is not listed any more. Nothing was changed.";
    TSR337 409 false "Rebalance state conflict" "The rebalance is not in a state that permits the order: it has ended, or it is being cancelled. Nothing was changed.";
    TSR338 409 false "A rebalance goes on" "Another rebalance goes on, and there is one at a time. The detail names it. Nothing was begun.";
    TSR339 409 false "Backups not available" "This router makes no backups: it has no folder for them (the setting backup_dir), the folder cannot be read, the router is stopping, or the engine is Citus. The detail says which. Nothing was begun.";
    TSR340 409 false "Backup in progress" "Another backup is in progress, and a router makes one at a time. The detail names it. Nothing was begun.";
    TSR341 409 false "Requirements not met" "The engine distributes rows over its nodes itself, and a requirement for moving them without blocking writes is not met: wal_level = logical on each node, a primary key or a replica identity on each table, reachable nodes with the same version, or a privilege of this router's user. The detail names it. Nothing was begun.";
    TSR342 404 false "No such backup" "There is no backup with this id: it was removed from the folder, or it failed so long ago that it is no longer listed.";
    TSR343 409 false "Backup has ended" "A backup that has ended cannot be cancelled. Nothing was changed.";
    TSR344 409 false "Index differs" "An index with this name exists and has other columns, or is being dropped. Nothing was changed.";
    TSR345 404 false "No such index" "The table has no index with this name.";
    TSR346 409 false "Pause too long" "The shards are SQLite files, and the writes of one shard would wait longer for the index than pause_max_ms permits. The detail names the shard and both times. Nothing was changed.";
    TSR347 409 false "Indexes not supported" "Tessera does not build indexes on the engine of this cluster. Nothing was changed.";
    TSR348 409 true  "Experiment in progress" "Another lab experiment is in progress, and a router runs one at a time. Nothing was begun.";
    TSR349 503 true  "Experiment failed" "The lab experiment has no result: its cluster could not be created or failed, it took too long, or the router is stopping. The detail says which. Its cluster is removed, and the router's own cluster is untouched.";
    TSR350 400 false "No such group" "The cluster has no table group with this name. /api/groups lists the groups; a router creates those of its settings when it starts. Nothing was changed.";
    TSR355 400 false "Partition missing" "The cluster places rows by a column, and the request does not name the partition. Every write needs the column in its row, including updates and deletes, because the partition is part of the row's identity. Nothing was stored.";
    TSR356 400 false "No such partition" "The column by which the cluster places rows does not name an existing partition, or is not an integer where ranges need one. The detail lists the partitions. Nothing was stored.";
    TSR357 400 false "Partition cannot change" "The update names two partitions. The partition is part of the row's identity: write the row to the new partition, and delete it from the old one. Nothing was stored.";
    TSR401 401 false "Credentials needed" "The request needs credentials and has none, or those that it has are not valid: send the header Authorization: Bearer with an API key or a token. Nothing was stored.";
    TSR403 403 false "Forbidden" "The caller lacks a right: the detail names the operation and the table, or the scope. Or the request comes from a web page of another origin, for a browser must not be a way into this service. Nothing was stored.";
    TSR409 409 false "Access conflict" "A key, a role or a denial is not in a state that permits the change: the key is revoked or suspended, keys still have the role, a file defines the key or the role, or there is no room for another. Nothing was changed.";
    TSR429 429 true  "Too many requests" "A limit of the caller, or of failed credentials from its address, is reached, or more than half of the writes that wait for a shard are the caller's while others wait too. Unless outcome is partial, nothing was stored; send again after Retry-After.";
    TSR500 500 true  "Internal error" "A defect of the router. It is logged under the request id.";
}
