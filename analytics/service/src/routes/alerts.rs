//! `GET /api/analytics/alerts`: the rules, what fires, and what has fired lately.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;

use crate::alerts::{AlertState, Alerts, Kind, Limits, Notice, Phase, Rule, Subject};
use crate::app::App;
use crate::fleet::{rfc3339, unix_ms};
use crate::parameters::Parameters;
use crate::problem::{GateRefusals, Problem};
use crate::webhook::WebhookView;

/// How the rules are.
#[derive(Serialize, ToSchema)]
struct AlertsAnswer {
    /// Always true.
    success: bool,
    /// When this was so: RFC 3339.
    at: String,
    /// The rules, in their order.
    rules: Vec<RuleView>,
    /// What fires, then what is about to.
    alerts: Vec<AlertView>,
    /// What is over, the newest first; at most 100.
    recent: Vec<AlertView>,
    /// Who is told.
    webhooks: Vec<WebhookView>,
}

/// A rule.
#[derive(Serialize, ToSchema)]
struct RuleView {
    /// What it is called.
    name: String,
    /// What it watches.
    kind: Kind,
    /// It is bad from this value on.
    raise: f64,
    /// It is well at this value and below.
    clear: f64,
    /// Of what the values are: `ms`, `share`, `ratio` or `down`.
    unit: &'static str,
    /// So many seconds it must be bad before anybody is told.
    for_s: u64,
    /// So many seconds it must be well before it is over.
    clear_for_s: u64,
    /// Over which time it is measured, as `window=` spells it; null: it is as it is now.
    #[schema(required)]
    window: Option<String>,
    /// Only this shard.
    #[schema(required)]
    shard: Option<String>,
    /// Only what this router sees.
    #[schema(required)]
    router: Option<String>,
    /// `quiet`, `pending` or `firing`: the worst of all that it watches.
    state: &'static str,
}

/// An alert.
#[derive(Serialize, ToSchema)]
struct AlertView {
    /// The rule.
    rule: String,
    /// What it watches.
    kind: Kind,
    /// `pending`, `firing` or `resolved`.
    state: &'static str,
    /// The shard that it is about.
    #[schema(required)]
    shard: Option<String>,
    /// The router that it is about.
    #[schema(required)]
    router: Option<String>,
    /// The value measured last, or when it was over; null: it could not be.
    #[schema(required)]
    value: Option<f64>,
    /// It is bad from this value on.
    raise: f64,
    /// It is well at this value and below.
    clear: f64,
    /// Of what the values are.
    unit: &'static str,
    /// Since when it was bad: RFC 3339.
    since: String,
    /// When it began to fire; null: it does not yet.
    #[schema(required)]
    fired_at: Option<String>,
    /// When it was over; null: it is not.
    #[schema(required)]
    resolved_at: Option<String>,
}

/// Tells how the rules are: what fires, and what has fired lately.
#[utoipa::path(
    tag = "analytics",
    responses((status = 200, description = "The alerts", body = AlertsAnswer), GateRefusals)
)]
#[get("/api/analytics/alerts")]
pub(super) async fn list_alerts(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string(), &[])?;
    let webhooks = app.rule_evaluator.webhook_queues.views();
    let alerts = app.rule_evaluator.alerts();
    let rules = alerts.rules();
    let mut active: Vec<_> = alerts.active().collect();
    active.sort_by_key(|(rule, _, alert_state)| (severity(&alert_state.phase), *rule));
    let of_rule = |(place, rule)| rule_view(&alerts, place, rule);
    let answer = AlertsAnswer {
        success: true,
        at: rfc3339(unix_ms()),
        rules: rules.iter().enumerate().map(of_rule).collect(),
        alerts: active
            .into_iter()
            .filter_map(|(rule, subject, alert_state)| {
                active_view(rules.get(rule)?, subject, alert_state)
            })
            .collect(),
        recent: alerts
            .recent()
            .filter_map(|notice| Some(recent_view(rules.get(notice.rule)?, notice)))
            .collect(),
        webhooks,
    };
    drop(alerts);
    Ok(HttpResponse::Ok().json(answer))
}

fn severity(phase: &Phase) -> u8 {
    match phase {
        Phase::Firing { .. } => 0,
        Phase::Pending { .. } => 1,
        Phase::Quiet => 2,
    }
}

fn state(phase: &Phase) -> &'static str {
    match phase {
        Phase::Firing { .. } => "firing",
        Phase::Pending { .. } => "pending",
        Phase::Quiet => "quiet",
    }
}

fn rule_view(alerts: &Alerts, place: usize, rule: &Rule) -> RuleView {
    let own = alerts
        .active()
        .filter(|(of, _, _)| *of == place)
        .map(|(_, _, alert_state)| &alert_state.phase);
    let Limits { raise, clear, for_s, clear_for_s } = rule.limits;
    let window = rule.kind.has_window().then(|| spelled(rule.window.length().as_secs()));
    RuleView {
        name: rule.name.clone(),
        kind: rule.kind,
        raise,
        clear,
        unit: rule.kind.unit(),
        for_s,
        clear_for_s,
        window,
        shard: rule.shard.clone(),
        router: rule.router.clone(),
        state: own.min_by_key(|phase| severity(phase)).map_or("quiet", state),
    }
}

/// `5m`, `24h`, `7d`: as `window=` takes it.
fn spelled(seconds: u64) -> String {
    match seconds {
        604_800 => "7d".to_owned(),
        hours if hours.is_multiple_of(3_600) => format!("{}h", hours / 3_600),
        minutes => format!("{}m", minutes / 60),
    }
}

fn active_view(rule: &Rule, subject: &Subject, alert_state: &AlertState) -> Option<AlertView> {
    let (since, fired_at) = match alert_state.phase {
        Phase::Quiet => return None,
        Phase::Pending { since } => (since, None),
        Phase::Firing { since, fired_at, .. } => (since, Some(fired_at)),
    };
    Some(view(
        rule,
        subject,
        (state(&alert_state.phase), alert_state.value),
        (since, fired_at, None),
    ))
}

fn recent_view(rule: &Rule, notice: &Notice) -> AlertView {
    let times = (notice.since, Some(notice.fired_at), notice.resolved_at);
    view(rule, &notice.subject, ("resolved", notice.value), times)
}

fn view(
    rule: &Rule,
    subject: &Subject,
    (state, value): (&'static str, Option<f64>),
    (since, fired_at, resolved_at): (u64, Option<u64>, Option<u64>),
) -> AlertView {
    let time = |seconds: u64| rfc3339(seconds.saturating_mul(1_000));
    AlertView {
        rule: rule.name.clone(),
        kind: rule.kind,
        state,
        shard: subject.shard.clone(),
        router: subject.router.clone(),
        value,
        raise: rule.limits.raise,
        clear: rule.limits.clear,
        unit: rule.kind.unit(),
        since: time(since),
        fired_at: fired_at.map(time),
        resolved_at: resolved_at.map(time),
    }
}
