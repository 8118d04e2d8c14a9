//! Codes: the table of all codes of problems, with the status, title and explanation of each.
//!
//! **Invariant:** this is the only table of codes; a code is never reused for another meaning.
//! **Not here:** the code of an error of the domain (`problem/domain`), the other fields of a
//! problem (`problem`).

analytics::problem_codes! {
    /// The code of a problem. Codes are never reused for another meaning.
    pub enum Code;

    TSR003 503 true  "No connection free" "Every connection to the shard was busy until the deadline. Send again later, or with a longer x-deadline-ms.";
    TSR004 504 true  "Deadline passed" "The answer did not come before x-deadline-ms (default 5000). For a write, outcome says whether it may have happened.";
    TSR005 503 true  "Overloaded" "The queue of the shard is full, there are as many live streams as there may be, or bodies fill the memory for them and this one has received least: the detail says which. Nothing was stored, but of a streamed body what came before next_index; send again after Retry-After.";
    TSR100 400 false "Bad query string" "A parameter of the query string is unknown, malformed or given twice, or a key in the path cannot be one. The detail names it.";
    TSR101 400 false "Bad body" "The body is not JSON, or a member is missing, given twice or of the wrong type. The detail names it.";
    TSR102 400 false "Unknown member" "The body has a member that means nothing here. The detail names it.";
    TSR103 400 false "Shard keys differ" "Header, query, body and the table's routing column must all name the same shard key: otherwise the row would be stored where no read finds it.";
    TSR104 400 false "Shard key needed" "A write needs a shard key: the table's routing column in the row, the header x-shard-key, or shardKey in query or body. Of a value under a key it is the rest of the path.";
    TSR105 400 false "Unknown preference" "Under Prefer: handling=strict every preference must be known.";
    TSR106 400 false "Bad page" "limit is 0 to 1000, offset 0 to 10000, and a cursor is next_cursor of the same query, as it came.";
    TSR107 406 false "Media type not supported" "Answers are JSON (406: the Accept header rules that out). Bodies must be JSON, those of bulk writes may be NDJSON or CSV, and come in gzip: for any other the same code comes with 415.";
    TSR108 413 false "Too large" "The body, its nesting, a row or the number of rows passes a limit. The detail names it.";
    TSR109 422 false "Idempotency key reused" "The Idempotency-Key came before with another request under this shard key. Nothing was stored; a new request needs a new key.";
    TSR111 404 false "No such path" "There is nothing at this path. / lists what there is.";
    TSR112 405 false "Method not allowed" "The path exists, but not for this method. The Allow header lists those it has.";
    TSR113 400 false "Bad header" "The value of a header cannot be used. The detail names the header and what is allowed.";
    TSR201 503 true  "Shard unavailable" "The shard that the request needs does not answer. The other shards are up.";
    TSR202 503 true  "No primary" "None of the shard's nodes takes writes now: its primary is gone, and no other was promoted before the deadline. Nothing was stored; reads at level one go on.";
    TSR203 503 true  "Slot is moving" "The slot of this key is not owned where the map says. Send again shortly.";
    TSR204 503 true  "Storage full" "The shard's storage takes no more writes. Nothing was stored; reads go on.";
    TSR205 504 true  "Not confirmed" "The row is stored on the shard's primary, but replicas did not confirm it before the deadline. outcome is committed, achieved is the level that it has reached.";
    TSR301 409 false "Exists already" "An insert met a row of the same id, or there is a table of this name with another shape. Nothing was changed.";
    TSR302 404 false "No such row" "An update or a delete met no row of this id under this shard key, or there is no value under the key.";
    TSR303 412 false "Version differs" "The row is not of the version that If-Match names: another client changed it. Read it again.";
    TSR304 409 false "Constraint broken" "The row breaks a rule of the database: unique, foreign key or check.";
    TSR305 409 false "What was seen may be lost" "The session token is of a life of the shard that did not go on: its data was put back from an older copy. Begin a new session without a token, and look at what is there.";
    TSR306 409 false "Not done by the database" "The database has swallowed the row, by a trigger, a rule or a policy of its operator, or the table is UNLOGGED and a crash would empty it. Nothing was stored: its operator has to change the table first.";
    TSR310 404 false "No such table" "There is no table of this name.";
    TSR311 400 false "No such column" "The table has no column of this name.";
    TSR312 400 false "Value does not fit" "A value is not of its column's type, is null where null is not allowed, or holds U+0000.";
    TSR403 403 false "Forbidden" "The caller lacks a right: the detail names the operation, the table and what lacks. Or the request comes from a web page of another origin, for a browser must not be a way into this service.";
    TSR500 500 true  "Internal error" "A defect of the router. It is logged under the request id.";
}
