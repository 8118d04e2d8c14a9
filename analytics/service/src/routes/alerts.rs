//! `GET /api/analytics/alerts`: the rules, the alerts that fire, and the alerts that were resolved
//! recently.

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

/// State of the rules.
#[derive(Serialize, ToSchema)]
struct AlertsAnswer {
    /// Always true.
    success: bool,
    /// Time of the response: RFC 3339.
    at: String,
    /// The rules, in their order.
    rules: Vec<RuleView>,
    /// Firing alerts, then pending ones.
    alerts: Vec<AlertView>,
    /// Resolved alerts, the newest first; at most 100.
    recent: Vec<AlertView>,
    /// Receivers of alerts.
    webhooks: Vec<WebhookView>,
}

/// A rule.
#[derive(Serialize, ToSchema)]
struct RuleView {
    /// Name of the rule.
    name: String,
    /// Kind of the measured value.
    kind: Kind,
    /// Values from this one on are bad.
    raise: f64,
    /// Values up to this one are good.
    clear: f64,
    /// Unit of the values: `ms`, `share`, `ratio`, `down`, `stalled` or `failed`.
    unit: &'static str,
    /// Seconds for which the value must be bad before the alert fires.
    for_s: u64,
    /// Seconds for which the value must be good before the alert is resolved.
    clear_for_s: u64,
    /// Window of the value, as `window=` spells it; null for a current value.
    #[schema(required)]
    window: Option<String>,
    /// Only this shard.
    #[schema(required)]
    shard: Option<String>,
    /// Only the values of this router.
    #[schema(required)]
    router: Option<String>,
    /// Worst state of all subjects: `quiet`, `pending` or `firing`.
    state: &'static str,
}

/// An alert.
#[derive(Serialize, ToSchema)]
struct AlertView {
    /// Name of the rule.
    rule: String,
    /// Kind of the measured value.
    kind: Kind,
    /// `pending`, `firing` or `resolved`.
    state: &'static str,
    /// Shard of the alert.
    #[schema(required)]
    shard: Option<String>,
    /// Router of the alert.
    #[schema(required)]
    router: Option<String>,
    /// Last value, or the value when it was resolved; null if it could not be measured.
    #[schema(required)]
    value: Option<f64>,
    /// Values from this one on are bad.
    raise: f64,
    /// Values up to this one are good.
    clear: f64,
    /// Unit of the values.
    unit: &'static str,
    /// Start of the bad values: RFC 3339.
    since: String,
    /// Time at which the alert started to fire; null if it is pending.
    #[schema(required)]
    fired_at: Option<String>,
    /// Time at which the alert was resolved; null before that.
    #[schema(required)]
    resolved_at: Option<String>,
}

/// Returns the state of all rules, the pending and firing alerts, and those resolved recently.
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

/// Returns the name of a window, such as `5m`, `24h` or `7d`.
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
