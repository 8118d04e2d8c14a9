//! System tables: declarations of the program's own tables for diesel. Data tables are not declared
//! here, because their declarations are read from the database at start.

diesel::table! {
    tessera_cluster (id) {
        id -> BigInt,
        cluster_id -> Text,
        epoch -> BigInt,
        keyspace -> Text,
        hash -> Text,
        parameters -> Text,
        slots -> BigInt,
        placement -> Text,
        shards -> Text,
        ranges -> Text,
        created_at -> Text,
        ready -> BigInt,
        replicas -> BigInt,
        timelines -> Text,
        secret -> Text,
        placement_parameters -> Text,
    }
}

diesel::table! {
    tessera_groups (number) {
        number -> BigInt,
        name -> Text,
        keyspace -> Text,
        parameters -> Text,
        placement -> Text,
        placement_parameters -> Text,
        shards -> Nullable<Text>,
        tables -> Text,
        ready -> BigInt,
    }
}

diesel::table! {
    tessera_shards (number) {
        number -> BigInt,
        name -> Text,
        weight -> BigInt,
        state -> Text,
        address -> Nullable<Text>,
    }
}

diesel::table! {
    tessera_shard (id) {
        id -> BigInt,
        cluster_id -> Text,
        shard -> Text,
        file_id -> Text,
        version -> BigInt,
        position -> BigInt,
        timeline -> BigInt,
        syncs -> BigInt,
    }
}

diesel::table! {
    tessera_timelines (number) {
        number -> BigInt,
        timeline -> BigInt,
        began -> BigInt,
        at -> Text,
    }
}

diesel::table! {
    tessera_tables (name) {
        name -> Text,
        column_list -> Text,
        id -> Text,
        routing -> Nullable<Text>,
        made_at -> BigInt,
        group_number -> BigInt,
    }
}

diesel::table! {
    tessera_intents (name) {
        name -> Text,
        state -> Text,
        declaration -> Text,
        at -> Text,
    }
}

diesel::table! {
    tessera_indexes (table_name, name) {
        table_name -> Text,
        name -> Text,
        column_list -> Text,
        is_unique -> BigInt,
        state -> Text,
        built -> BigInt,
        reason -> Nullable<Text>,
        pause_max_ms -> BigInt,
        pause_ms -> Nullable<BigInt>,
        changed_at -> Text,
    }
}

diesel::table! {
    tessera_counts (name) {
        name -> Text,
        rows -> BigInt,
    }
}

diesel::table! {
    #[sql_name = "tessera_moves"]
    tessera_listed_moves (id) {
        id -> Text,
        rebalance -> Nullable<Text>,
        source -> BigInt,
        target -> BigInt,
        slots -> Text,
        phase -> Text,
        goal -> Text,
        paused -> BigInt,
        rate -> Nullable<BigInt>,
        keep_us -> BigInt,
        term -> BigInt,
        began_at -> Text,
        changed_at -> Text,
        owned_at -> Nullable<Text>,
        ended_at -> Nullable<Text>,
        progress -> Text,
    }
}

diesel::table! {
    tessera_rebalances (id) {
        id -> Text,
        goal -> Text,
        state -> Text,
        plan -> Text,
        rate -> Nullable<BigInt>,
        keep_us -> BigInt,
        skew_before -> Double,
        skew_planned -> Double,
        skew_measured -> Nullable<Double>,
        reason -> Nullable<Text>,
        began_at -> Text,
        changed_at -> Text,
        ended_at -> Nullable<Text>,
    }
}

diesel::table! {
    tessera_moving (group_name, slot) {
        group_name -> Text,
        slot -> BigInt,
        move_id -> Text,
    }
}
