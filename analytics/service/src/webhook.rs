//! Webhook: sends notices of alerts to the configured URLs, in order, and repeats each until the
//! webhook accepts or refuses it, or [`ATTEMPTS_MAX`] attempts have failed.
//!
//! **Invariant:** messages are sent only to addresses of the configuration, and no log shows a path
//! or a secret. An unreachable webhook delays nothing else. Its queue is bounded: if the queue is
//! full, the oldest message is dropped and counted as dropped.
//! **Not here:** deciding which alerts fire (`alerts`).

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

/// Maximum number of messages in the queue of one webhook.
pub(crate) const WAITING_MAX: usize = 256;
/// Longest wait for one response.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a response, of which only the status is used.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Pause after the first failed attempt. Later pauses grow up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Maximum number of attempts for one message. They take about twenty minutes; after that, the
/// notice is too old to be useful.
const ATTEMPTS_MAX: u32 = 25;

/// Body of a message, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Message<'m> {
    /// Version of this format.
    version: u32,
    /// `firing` or `resolved`.
    status: &'static str,
    /// Name of the rule.
    rule: &'m str,
    /// Kind of the measured value.
    kind: Kind,
    /// Unit of the values.
    unit: &'static str,
    /// Shard of the alert, if it has one.
    shard: Option<&'m str>,
    /// Router of the alert, if it has one.
    router: Option<&'m str>,
    /// Value when the alert started to fire or was resolved; null if it could not be measured.
    value: Option<f64>,
    /// Threshold from which on values are bad.
    raise: f64,
    /// Threshold up to which values are good.
    clear: f64,
    /// Start of the bad values: RFC 3339.
    since: String,
    /// Time at which the alert started to fire: RFC 3339.
    fired_at: String,
    /// Time at which the alert was resolved; null while it fires.
    resolved_at: Option<String>,
    /// Description of the alert in one sentence.
    text: String,
}

impl<'m> Message<'m> {
    /// Returns the message of a notice.
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

/// Queues of all webhooks.
#[derive(Clone, Default)]
pub(crate) struct WebhookQueues(Arc<Vec<Arc<WebhookQueue>>>);

/// Message in the queue of one webhook.
#[derive(Clone)]
struct QueuedMessage {
    /// Number of the message in its queue. Different messages may have equal bodies.
    number: u64,
    body: Bytes,
}

/// Queue of one webhook.
struct WebhookQueue {
    webhook: Webhook,
    waiting: Mutex<VecDeque<QueuedMessage>>,
    /// Number of messages that were ever queued.
    queued: AtomicU64,
    more: Notify,
    delivered: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// State of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct WebhookView {
    /// Name of the webhook.
    pub(crate) name: String,
    /// Messages that the webhook has accepted.
    delivered: u64,
    /// Messages that the webhook never got: the queue was full, the webhook refused them, or it was
    /// unreachable for too long.
    dropped: u64,
    /// Messages in the queue.
    waiting: usize,
    /// Reason why the last message was not accepted; null if it was.
    #[schema(required)]
    last_error: Option<String>,
}

impl WebhookView {
    /// Returns the numbers of delivered, dropped and waiting messages.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [self.delivered, self.dropped, self.waiting as u64]
    }
}

impl WebhookQueues {
    /// Starts a queue for each webhook; must be called within the runtime that sends.
    pub(crate) fn start(webhooks: &[Webhook], tls: Option<&Arc<ClientConfig>>) -> Self {
        let webhook_queues = webhooks.iter().map(|webhook| {
            let queue = Arc::new(WebhookQueue::new(webhook.clone()));
            tokio::spawn(queue.clone().run(HttpClient::new(webhook.target.clone(), tls)));
            queue
        });
        Self(Arc::new(webhook_queues.collect()))
    }

    /// Queues a notice for all webhooks, without waiting.
    pub(crate) fn enqueue(&self, rule: &Rule, notice: &Notice) {
        if self.0.is_empty() {
            return;
        }
        let Ok(body) = serde_json::to_vec(&Message::of(rule, notice)) else { return };
        let body = Bytes::from(body);
        self.0.iter().for_each(|queue| queue.add(body.clone()));
    }

    /// Returns the states of all webhooks.
    pub(crate) fn views(&self) -> Vec<WebhookView> {
        self.0.iter().map(|queue| queue.view()).collect()
    }
}

impl WebhookQueue {
    fn new(webhook: Webhook) -> Self {
        Self {
            webhook,
            waiting: Mutex::default(),
            queued: AtomicU64::new(0),
            more: Notify::new(),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    fn add(&self, body: Bytes) {
        let mut waiting = self.waiting();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let number = self.queued.fetch_add(1, Ordering::Relaxed);
        waiting.push_back(QueuedMessage { number, body });
        drop(waiting);
        self.more.notify_one();
    }

    fn view(&self) -> WebhookView {
        WebhookView {
            name: self.webhook.name.clone(),
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            waiting: self.waiting().len(),
            last_error: self.last_error().clone(),
        }
    }

    async fn run(self: Arc<Self>, mut client: HttpClient) {
        loop {
            let next = self.waiting().front().cloned();
            let Some(QueuedMessage { number, body }) = next else {
                self.more.notified().await;
                continue;
            };
            let taken = self.deliver(&mut client, &body).await;
            self.remove(number, taken);
        }
    }

    /// Removes the message that was just delivered or given up, and counts it.
    fn remove(&self, number: u64, is_delivered: bool) {
        let counter = if is_delivered { &self.delivered } else { &self.dropped };
        let mut waiting = self.waiting();
        // If the queue was full meanwhile, the message may have been dropped and counted already,
        // and another one is at the front.
        if waiting.front().is_some_and(|front| front.number == number) {
            waiting.pop_front();
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a message until the webhook accepts or refuses it, or [`ATTEMPTS_MAX`] attempts have
    /// failed. Returns true if it was accepted.
    async fn deliver(&self, client: &mut HttpClient, body: &Bytes) -> bool {
        let name = &self.webhook.name;
        let mut pause = PAUSE_MIN;
        for attempt in 1..=ATTEMPTS_MAX {
            let cause = match self.attempt(client, body.clone()).await {
                Ok(200..300) => {
                    self.last_error().take();
                    return true;
                }
                // These are timeouts, "too early", "too many requests" and errors of the server, so
                // a later attempt may succeed.
                Ok(status @ (408 | 425 | 429 | 500..)) => {
                    format!("it answers with status {status}")
                }
                Ok(status) => {
                    let cause = format!("it refuses with status {status}");
                    tracing::warn!(webhook = %name, "an alert is not delivered: {cause}");
                    self.last_error().replace(cause);
                    return false;
                }
                Err(cause) => cause,
            };
            if self.last_error().replace(cause.clone()).is_none() {
                tracing::warn!(webhook = %name, "an alert is not delivered yet: {cause}");
            }
            if attempt < ATTEMPTS_MAX {
                tokio::time::sleep(pause).await;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        tracing::warn!(webhook = %name, "an alert is not delivered: {ATTEMPTS_MAX} attempts failed");
        false
    }

    async fn attempt(&self, client: &mut HttpClient, body: Bytes) -> Result<u16, String> {
        let mut request = Request::post(&*self.webhook.path)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("tessera-analytics/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.webhook.authorization {
            request = request.header(AUTHORIZATION, authorization.0.clone());
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let answer = client.exchange(request, PATIENCE, ANSWER_BYTES_MAX).await;
        answer.map(|answer| answer.status).map_err(|error| error.to_string())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<QueuedMessage>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_not_removed_for_an_equal_one_that_a_full_queue_has_dropped_meanwhile() {
        let target = "http://127.0.0.1:1".parse().expect("an address");
        let (name, path) = ("pager".to_owned(), "/".to_owned());
        let queue = WebhookQueue::new(Webhook { name, target, path, authorization: None });
        let body = Bytes::from_static(b"the same");
        for _ in 0..WAITING_MAX {
            queue.add(body.clone());
        }
        let in_delivery = queue.waiting()[0].number;
        queue.add(body);
        queue.remove(in_delivery, true);
        assert_eq!(queue.view().counts(), [0, 1, WAITING_MAX as u64]);
        let next = queue.waiting()[0].number;
        queue.remove(next, true);
        assert_eq!(queue.view().counts(), [1, 1, WAITING_MAX as u64 - 1]);
    }
}
