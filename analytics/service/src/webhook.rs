//! Webhook: tells others of alerts, in their order, until they have taken them.
//!
//! **Invariant:** only addresses of the configuration are told, and no log shows a path or a secret; a webhook that is away
//! delays nobody, and what waits for it is bounded: the oldest goes, and is counted.
//! **Not here:** when something is told (`rule_evaluator`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use rustls::ClientConfig;
use serde::Serialize;
use tokio::sync::Notify;
use utoipa::ToSchema;

use crate::alerts::{Kind, Notice, Rule};
use crate::config::Webhook;
use crate::fleet::rfc3339;
use web_kit::http_client::HttpClient;

/// Most messages that wait for one webhook.
pub(crate) const WAITING_MAX: usize = 256;
/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What it answers is not read but for its status.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Pauses between attempts grow from one to the other.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Attempts at one message, over some twenty minutes: what is older than that wakes nobody to any good.
const ATTEMPTS_MAX: u32 = 25;

/// What is posted, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Message<'m> {
    /// The version of this form.
    version: u32,
    /// `firing` or `resolved`.
    status: &'static str,
    /// The name of the rule.
    rule: &'m str,
    /// What it watches.
    kind: Kind,
    /// Of what the values are.
    unit: &'static str,
    /// The shard that it is about, if it is about one.
    shard: Option<&'m str>,
    /// The router that it is about, if it is about one.
    router: Option<&'m str>,
    /// The value that decided; null if it could not be measured.
    value: Option<f64>,
    /// It is bad from this value on.
    raise: f64,
    /// It is well at this value and below.
    clear: f64,
    /// Since when it was bad: RFC 3339.
    since: String,
    /// When it began to fire.
    fired_at: String,
    /// When it was over; null while it fires.
    resolved_at: Option<String>,
    /// One sentence for people.
    text: String,
}

impl<'m> Message<'m> {
    /// What is told of an alert.
    pub(crate) fn of(rule: &'m Rule, notice: &'m Notice) -> Self {
        let time = |seconds: u64| rfc3339(seconds.saturating_mul(1_000));
        let (shard, router) = (notice.subject.shard.as_deref(), notice.subject.router.as_deref());
        let status = if notice.resolved_at.is_some() { "resolved" } else { "firing" };
        let of = |what: &str, name: Option<&str>| {
            name.map_or_else(String::new, |n| format!(", {what} {n}"))
        };
        let value =
            notice.value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.3}"));
        let text = format!(
            "{} {status}: {} is {value} {}{}{}",
            rule.name,
            rule.kind,
            rule.kind.unit(),
            of("shard", shard),
            of("router", router)
        );
        Self {
            version: 1,
            status,
            rule: &rule.name,
            kind: rule.kind,
            unit: rule.kind.unit(),
            shard,
            router,
            value: notice.value,
            raise: rule.limits.raise,
            clear: rule.limits.clear,
            since: time(notice.since),
            fired_at: time(notice.fired_at),
            resolved_at: notice.resolved_at.map(time),
            text,
        }
    }
}

/// Those who are told.
#[derive(Clone, Default)]
pub(crate) struct WebhookQueues(Arc<Vec<Arc<WebhookQueue>>>);

/// What waits for one webhook.
struct WebhookQueue {
    webhook: Webhook,
    waiting: Mutex<VecDeque<Bytes>>,
    more: Notify,
    delivered: AtomicU64,
    dropped: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// How a webhook is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct WebhookView {
    /// What it is called.
    pub(crate) name: String,
    /// Messages that it has taken.
    delivered: u64,
    /// Messages that it never got: too many waited, it refused them, or was away for too long.
    dropped: u64,
    /// Messages that wait.
    waiting: usize,
    /// Why it has not taken the last one; null: it has.
    #[schema(required)]
    last_error: Option<String>,
}

impl WebhookView {
    /// Delivered, dropped and waiting.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [self.delivered, self.dropped, self.waiting as u64]
    }
}

impl WebhookQueues {
    /// A messenger for each; must be called within the runtime that is to send.
    pub(crate) fn start(webhooks: &[Webhook], tls: Option<&Arc<ClientConfig>>) -> Self {
        let webhook_queues = webhooks.iter().map(|webhook| {
            let queue = Arc::new(WebhookQueue {
                webhook: webhook.clone(),
                waiting: Mutex::default(),
                more: Notify::new(),
                delivered: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                trouble: Mutex::default(),
            });
            tokio::spawn(queue.clone().run(HttpClient::new(webhook.target.clone(), tls)));
            queue
        });
        Self(Arc::new(webhook_queues.collect()))
    }

    /// Has all of them told. Nothing is waited for.
    pub(crate) fn tell(&self, rule: &Rule, notice: &Notice) {
        if self.0.is_empty() {
            return;
        }
        let Ok(body) = serde_json::to_vec(&Message::of(rule, notice)) else { return };
        let body = Bytes::from(body);
        self.0.iter().for_each(|queue| queue.add(body.clone()));
    }

    /// How they are doing.
    pub(crate) fn views(&self) -> Vec<WebhookView> {
        self.0.iter().map(|queue| queue.view()).collect()
    }
}

impl WebhookQueue {
    fn add(&self, body: Bytes) {
        let mut waiting = self.waiting();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(body);
        drop(waiting);
        self.more.notify_one();
    }

    fn view(&self) -> WebhookView {
        WebhookView {
            name: self.webhook.name.clone(),
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            waiting: self.waiting().len(),
            last_error: self.trouble().clone(),
        }
    }

    async fn run(self: Arc<Self>, mut client: HttpClient) {
        loop {
            let next = self.waiting().front().cloned();
            let Some(body) = next else {
                self.more.notified().await;
                continue;
            };
            let taken = self.deliver(&mut client, &body).await;
            let counter = if taken { &self.delivered } else { &self.dropped };
            let mut waiting = self.waiting();
            // It may have been the oldest of too many meanwhile, and counted.
            if waiting.front().is_some_and(|front| front == &body) {
                waiting.pop_front();
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether it was taken, in the end.
    async fn deliver(&self, client: &mut HttpClient, body: &Bytes) -> bool {
        let name = &self.webhook.name;
        let mut pause = PAUSE_MIN;
        for attempt in 1..=ATTEMPTS_MAX {
            let cause = match self.attempt(client, body.clone()).await {
                Ok(200..300) => {
                    self.trouble().take();
                    return true;
                }
                // Too early, too much, or its own fault: later it may.
                Ok(status @ (408 | 425 | 429 | 500..)) => {
                    format!("it answers with status {status}")
                }
                Ok(status) => {
                    let cause = format!("it refuses with status {status}");
                    tracing::warn!(webhook = %name, "an alert is not told: {cause}");
                    self.trouble().replace(cause);
                    return false;
                }
                Err(cause) => cause,
            };
            if self.trouble().replace(cause.clone()).is_none() {
                tracing::warn!(webhook = %name, "an alert waits to be told: {cause}");
            }
            if attempt < ATTEMPTS_MAX {
                tokio::time::sleep(pause).await;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        tracing::warn!(webhook = %name, "an alert is not told: {ATTEMPTS_MAX} attempts failed");
        false
    }

    async fn attempt(&self, client: &mut HttpClient, body: Bytes) -> Result<u16, String> {
        let mut asked = Request::post(&*self.webhook.path)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("tessera-analytics/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.webhook.authorization {
            asked = asked.header(AUTHORIZATION, authorization.0.clone());
        }
        let asked = asked.body(Full::new(body)).map_err(|error| error.to_string())?;
        let answer = client.exchange(asked, PATIENCE, ANSWER_BYTES_MAX).await;
        answer.map(|answer| answer.status).map_err(|error| error.to_string())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
