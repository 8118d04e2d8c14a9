//! Layers: the packages of the workspace and the modules of each, lowest first.

/// Packages, lowest first: folder, and the packages of this workspace that it depends on.
pub(crate) const PACKAGES: &[(&str, &[&str])] = &[
    ("shard-manager/model", &[]),
    ("shard-manager/credential", &[]),
    ("shard-manager/access", &["model"]),
    ("shard-manager/cache", &["model"]),
    ("shard-manager/engine", &["access", "model"]),
    ("shard-manager/local-postgres", &["model"]),
    ("shard-manager/postgres", &["access", "engine", "model"]),
    ("shard-manager/sqlite", &["access", "engine", "model"]),
    ("shard-manager/cluster", &["access", "cache", "engine", "model"]),
    (
        "shard-manager/assembly",
        &["access", "cache", "cluster", "engine", "model", "postgres", "sqlite"],
    ),
    (
        "shard-manager/cli",
        &[
            "access",
            "assembly",
            "cluster",
            "credential",
            "engine",
            "local-postgres",
            "model",
            "postgres",
            "sqlite",
        ],
    ),
    (
        "shard-manager",
        &[
            "access",
            "assembly",
            "cache",
            "cli",
            "cluster",
            "credential",
            "engine",
            "local-postgres",
            "model",
            "postgres",
            "sqlite",
        ],
    ),
    ("analytics/recorder", &[]),
    ("analytics/web-kit", &["recorder"]),
    ("analytics/issuers", &["access", "credential", "recorder", "web-kit"]),
    ("analytics/service", &["access", "credential", "issuers", "recorder", "web-kit"]),
    ("analytics", &["access", "recorder", "service", "web-kit"]),
    ("api-router", &["analytics", "issuers", "shard-manager"]),
    ("loadtest/checker", &[]),
    ("loadtest", &["checker", "credential"]),
];

/// Lowest first. A module may import only from lines above its own, and from its own children.
pub(super) const MODEL: &[&[&str]] = &[
    &[
        "consistency",
        "csv",
        "fair_share",
        "finding",
        "json_members",
        "keyspace",
        "position",
        "reason",
        "sabotage",
        "topology",
    ],
    &["placement", "slot_refusal", "slot_set", "stats", "token", "value"],
    &["shard_map", "simulation", "table"],
    &["advice", "declaration", "map_change", "query", "row_change"],
    &["cursor", "result_rows"],
    &["error"],
    &["idempotency"],
];
pub(super) const ACCESS: &[&[&str]] = &[
    &["auth_error", "hex", "json_member", "operation", "scope", "tenant", "unix_time"],
    &["key"],
    &["denial", "grant", "limit", "session"],
    &["role"],
    &["jwt", "key_record", "rights"],
    &["caller", "check", "keys_file"],
    &["audit", "snapshot"],
    &["authenticator"],
];
pub(super) const LOCAL_POSTGRES: &[&[&str]] = &[
    &["error", "local_spec", "processes"],
    &["node_dir", "os_user", "ports", "programs", "settings"],
    &["cluster_dir"],
    &["manifest", "shared_env"],
    &["node"],
    &["environment", "provision"],
    &["cluster_update", "pg_rewind", "standalone"],
    &["primary_choice"],
    &["local_cluster"],
    &["node_commands"],
];
pub(super) const ENGINE: &[&[&str]] = &[
    &[
        "access_store",
        "doubts",
        "fair_places",
        "fair_queue",
        "fault_injector",
        "published_map",
        "replication",
        "slot_change",
        "slot_news",
        "system_tables",
    ],
    &["fair_channel", "operator_desk"],
    &["idempotency_expiry", "open_error", "pause_barrier", "runtime_pool", "table_declaration"],
    &["catalog_rows", "node_reader", "row_image", "writer"],
    &["cluster_spec", "replica_node", "schema_intent", "select"],
    &["cluster_backend", "refusal_code", "sample_queries", "schema_agreement"],
    &["opened_cluster"],
];
pub(super) const CACHE: &[&[&str]] = &[
    &["address", "proof", "stats", "tally"],
    &["breaker", "clock", "connections", "entry"],
    &["cache_key", "inspect"],
    &["admission", "invalidation", "local_cache", "script", "shared_read"],
    &["client"],
    &["read_path"],
];
pub(super) const POSTGRES: &[&[&str]] = &[
    &[
        "db_error",
        "insert_predictor",
        "node_address",
        "node_role",
        "position_samples",
        "term",
        "timestamp",
    ],
    &["binary_value", "connect_error", "sql", "tls"],
    &["session", "statement", "statement_cache"],
    &[
        "citus",
        "declarations",
        "dialect",
        "hazards",
        "node",
        "json_rows",
        "position_query",
        "refusals",
        "timeline_file",
    ],
    &["batch", "known_slots", "lane_session", "primary_tracker", "requirements"],
    &["citus_statements", "citus_watch", "ddl", "discovery", "proof", "slot_changes", "target"],
    &["key_reads", "row_statements", "shard_database", "upsert"],
    &["triggered_tables", "catalog", "scan"],
    &[
        "access_session",
        "catalog_follower",
        "readers",
        "shard_addresses",
        "shard_listing",
        "slot_session",
        "transaction",
    ],
    &["backend", "replica", "writer"],
    &["catalog_watch"],
    &["open"],
];
pub(super) const SQLITE: &[&[&str]] = &[
    &[
        "declarations",
        "open_file_check",
        "private_file",
        "slot_filter",
        "slot_line",
        "sql",
        "statement_deadline",
    ],
    &["connection", "data_dir", "doubt_record"],
    &["check", "dialect", "file_watch", "intents", "log", "row_hash", "row_json", "schema_state"],
    &["owned_slots"],
    &["batch", "read_only", "reader", "timeline"],
    &["catalog", "compare", "ddl", "shard_file", "slot_change", "snapshot", "threads"],
    &["access_store", "applier", "digest", "file_reader", "migrate", "node_view", "writer"],
    &["copy", "offline_view", "replica"],
    &["audit", "backup", "comparison_loop", "export"],
    &["control"],
    &["backend"],
    &["open"],
];
pub(super) const ASSEMBLY: &[&[&str]] = &[&["doctor"]];
pub(super) const CLUSTER: &[&[&str]] = &[
    &["lane", "parked_writes", "replica_set", "slot_redirects"],
    &["shard", "slot_router"],
    &["shard_list"],
    &["manager"],
];
pub(super) const CLI: &[&[&str]] = &[&["demo_data", "terminal"], &["import"], &["command"]];
pub(super) const API_ROUTER: &[&[&str]] = &[
    &["caller_rights", "request_hints"],
    &["body_decoding", "browser_policy", "data_route", "negotiation", "problem", "tls", "trace"],
    &["body_budget", "documented_paths", "otlp", "request_record"],
    &["config"],
    &["body", "compression", "filter", "prefer"],
    &["cluster_status", "headers", "query"],
    &["access", "metrics_view", "unsupported_headers"],
    &["app"],
    &["response_headers"],
    &["middleware", "routes"],
    &["server"],
    &["doctor"],
];
pub(super) const RECORDER: &[&[&str]] = &[
    &[
        "bucket_counter",
        "clock",
        "cluster",
        "errors",
        "measured_intervals",
        "packed",
        "process",
        "sample",
        "tls_roots",
        "window",
    ],
    &["errors_query", "histogram", "query", "shard_labels"],
    &["entry", "frame", "metrics"],
    &["example_lines", "hot", "merge", "slot_load", "totals"],
    &["current_second", "history"],
    &["aggregator", "curves"],
    &["window_sums"],
    &["figures", "recorder_state"],
    &["worker"],
    &["recorder"],
    &["openmetrics", "store"],
];
pub(super) const WEB_KIT: &[&[&str]] = &[
    &[
        "bearer",
        "cross_origin",
        "dashboard",
        "end_signals",
        "event_stream",
        "exit_status",
        "health_probe",
        "http_client",
        "log_format",
        "login",
        "problem_codes",
        "readiness",
        "settings",
    ],
    &["static_assets"],
];
pub(super) const ISSUERS: &[&[&str]] =
    &[&["config", "jwks_client"], &["files", "key_sets", "remote_keys"], &["key_fetcher"]];
pub(super) const SERVICE: &[&[&str]] = &[
    &["alerts", "clock_offset", "fleet", "frame_response", "merged", "problem"],
    &["config", "fleet_query", "gate"],
    &["key_files", "parameters", "router_key", "webhook"],
    &["collector"],
    &["discovery"],
    &["rule_readings"],
    &["app"],
    &["forward", "middleware", "scrape"],
    &["routes"],
    &["server"],
];

pub(super) const LOADTEST: &[&[&str]] = &[
    &[
        "check",
        "cpu",
        "fault_kind",
        "keyspace",
        "random",
        "recorder",
        "response_check",
        "scenario",
        "tables",
    ],
    &["http_client", "keys"],
    &["counters", "requests"],
    &["clients", "mix", "probe", "progress"],
    &["options"],
    &["chaos", "load", "own_rows", "report"],
    &["measured_run", "tenants", "verify"],
    &["verified_run"],
];
pub(super) const CHECKER: &[&[&str]] = &[
    &["history", "version_bound"],
    &["row"],
    &["acknowledged_watermark", "violation"],
    &["allowed_losses"],
    &["findings"],
    &["checks"],
    &["report"],
    &["violation_report"],
];

/// Packages that keep rows.
pub(super) const ENGINES: [&str; 2] = ["postgres", "sqlite"];

/// Packages that may depend on an engine: they open clusters, or are about its files or servers.
pub(super) const ENGINE_USERS: [&str; 3] =
    ["shard-manager/assembly", "shard-manager/cli", "shard-manager"];
