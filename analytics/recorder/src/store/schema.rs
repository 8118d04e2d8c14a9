//! Schema: the table of the store, as the migrations create it on either engine.

diesel::table! {
    tessera_history (source, step, start) {
        source -> Text,
        step -> Integer,
        start -> BigInt,
        shape -> Integer,
        frame -> Binary,
    }
}
