//! Schema: the table of the store. The migrations create the same table in SQLite and in
//! PostgreSQL.

diesel::table! {
    tessera_history (source, step, start) {
        source -> Text,
        step -> Integer,
        start -> BigInt,
        shape -> Integer,
        frame -> Binary,
    }
}
