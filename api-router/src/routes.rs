//! Routes: registers all routes of the router. The OpenAPI document is generated from the same
//! list.

pub mod access;
pub mod advice;
pub mod aliases;
pub mod analytics;
pub mod backups;
pub mod bulk;
pub mod dashboard;
pub mod distribution;
pub mod errors;
pub mod groups;
pub mod health;
pub mod home;
pub mod indexes;
pub mod kv;
pub mod lab;
pub mod moves;
pub mod openapi;
pub mod placement;
pub mod read;
pub mod rebalances;
pub mod row_write;
pub mod scrape;
pub mod shard_changes;
pub mod shard_list;
pub mod shortcuts;
pub mod slot_fences;
pub mod tables;
pub mod write;

use utoipa_actix_web::service_config::ServiceConfig;

/// Groups of routes that only some routers have; true if this router has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalRoutes {
    /// Routes that inject faults into nodes and run lab experiments.
    pub lab: bool,
    /// Routes of access control.
    pub access: bool,
    /// Routes that change shards and slots, and control moves, rebalances and backups.
    pub operate: bool,
}

/// Registers every route. The most frequent ones come first, because routes are searched in order.
pub fn configure(surface: &mut ServiceConfig<'_>, optional: OptionalRoutes) {
    surface
        .service(write::write_row)
        .service(read::read_rows)
        .service(placement::route_key)
        .service(bulk::write_bulk)
        .service(kv::get_value)
        .service(kv::put_value)
        .service(kv::delete_value)
        .service(aliases::write_pair)
        .service(aliases::read_pair)
        .service(aliases::stats)
        .service(health::health)
        .service(health::live)
        .service(health::ready)
        .service(shard_list::list_shards)
        .service(shard_list::find_shard)
        .service(placement::shard_map)
        .service(groups::list_groups)
        .service(moves::list_moves)
        .service(moves::find_move)
        .service(rebalances::list_rebalances)
        .service(rebalances::find_rebalance)
        .service(backups::list_backups)
        .service(backups::find_backup)
        .service(distribution::distribution)
        .service(advice::advise)
        .service(tables::list_tables)
        .service(tables::find_table)
        .service(tables::make_table)
        .service(indexes::list_indexes)
        .service(indexes::make_index)
        .service(indexes::remove_index)
        .service(analytics::read_metrics)
        .service(analytics::list_errors)
        .service(analytics::stream_metrics)
        .service(analytics::list_frames)
        .service(scrape::scrape)
        .service(dashboard::show_dashboard)
        .service(dashboard::show_file)
        .service(lab::page::show_lab)
        .service(lab::placements::try_placement)
        .service(lab::writes::list_writes)
        .service(home::home)
        .service(errors::list_codes)
        .service(errors::explain_code)
        .service(shortcuts::short_health)
        .service(shortcuts::healthz)
        .service(shortcuts::docs)
        .service(shortcuts::openapi_document)
        .service(shortcuts::version);
    if optional.operate {
        configure_changes(surface);
    }
    if optional.access {
        configure_access(surface);
    }
    if optional.lab {
        surface.service(lab::list_faults).service(lab::set_fault).service(lab::levels::play_levels);
    }
}

/// Registers the routes of sessions, API keys, roles, denials, and the rights of callers.
fn configure_access(surface: &mut ServiceConfig<'_>) {
    surface
        .service(access::describe_caller)
        .service(access::check_access)
        .service(access::session::begin_session)
        .service(access::session::end_session)
        .service(access::keys::list_keys)
        .service(access::keys::create_key)
        .service(access::keys::find_key)
        .service(access::keys::revoke_key)
        .service(access::keys::rotate_key)
        .service(access::keys::resume_key)
        .service(access::roles::list_roles)
        .service(access::roles::find_role)
        .service(access::roles::put_role)
        .service(access::roles::remove_role)
        .service(access::denials::list_denials)
        .service(access::denials::add_denial)
        .service(access::denials::remove_denial);
}

/// Registers the routes that change shards and slots, and make backups.
fn configure_changes(surface: &mut ServiceConfig<'_>) {
    surface
        .service(shard_changes::add_shard)
        .service(shard_changes::change_shard)
        .service(shard_changes::remove_shard)
        .service(slot_fences::fence_slots)
        .service(slot_fences::release_slots)
        .service(moves::begin_move)
        .service(moves::order_move)
        .service(rebalances::begin_rebalance)
        .service(rebalances::order_rebalance)
        .service(rebalances::drain_shard)
        .service(backups::begin_backup)
        .service(backups::cancel_backup);
}
