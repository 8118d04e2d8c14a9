//! OTLP: sends traces of requests to a collector by OTLP over HTTP. The module exists only with the
//! feature `otlp`.
//!
//! Each request that reads or writes rows has one span, with a child span for the time in the queue
//! and one for the time in the database. A trace is not sent if the client's `traceparent`
//! indicates that the client does not record it.
//!
//! **Invariant:** no request waits for the collector: spans that do not fit into the queue are
//! dropped. No key and no query string is sent.
//! **Not here:** parsing the client's `traceparent` (`trace`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use analytics::Sample;
use async_trait::async_trait;
use http::{Request, Response};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::trace::{Trace, own_span};

/// Maximum number of spans that wait to be sent; further ones are dropped.
const QUEUE_MAX: usize = 8_192;
/// Maximum number of spans in one request to the collector.
const BATCH_MAX: usize = 512;
/// Maximum time for which the first span of a batch waits for others.
const GATHERED: Duration = Duration::from_secs(1);
/// Maximum time for a request to the collector.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// Maximum time for sending the last spans when the router shuts down.
const END_MAX: Duration = Duration::from_secs(3);
/// Path at which collectors receive traces.
const PATH: &str = "/v1/traces";

/// Sends traces until it is dropped.
pub struct Tracer {
    spans: BatchSpanProcessor,
    scope: InstrumentationScope,
    own: ServiceAttributes,
}

/// Attributes that all spans share.
struct ServiceAttributes {
    scheme: &'static str,
    address: SocketAddr,
    database: &'static str,
}

/// Request about rows, with its measurements.
pub struct TracedRequest<'r> {
    /// Trace of the request.
    pub trace: Trace,
    /// Recorded measurements of the request.
    pub sample: Sample<'r>,
    /// Time until the first shard received the request.
    pub before: Duration,
    /// HTTP method.
    pub method: &'r str,
    /// Path as the route declares it.
    pub route: &'static str,
    /// The shard, if the request went to exactly one.
    pub shard: Option<&'r str>,
}

/// Error that prevents the sending of traces.
#[derive(Debug, thiserror::Error)]
#[error("no traces can be sent: {0}")]
pub struct OtlpError(String);

impl Tracer {
    /// Starts to send traces to a collector. Spans for a collector that cannot be reached are
    /// dropped.
    ///
    /// # Errors
    /// [`OtlpError`] if the endpoint is not a URL.
    pub fn start(
        endpoint: &str,
        address: SocketAddr,
        is_encrypted: bool,
        backend: &'static str,
    ) -> Result<Self, OtlpError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(with_path(endpoint))
            .with_timeout(EXPORT_MAX)
            .with_http_client(BlockingClient::new())
            .build()
            .map_err(|error| OtlpError(error.to_string()))?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(GATHERED)
            .build();
        let mut spans = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let version = env!("CARGO_PKG_VERSION");
        // Attributes from the environment variable OTEL_RESOURCE_ATTRIBUTES are added as well.
        let resource = Resource::builder()
            .with_service_name("tessera-router")
            .with_attribute(KeyValue::new("service.version", version))
            .with_attribute(KeyValue::new("service.instance.id", address.to_string()));
        spans.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("tessera").with_version(version).build();
        let scheme = if is_encrypted { "https" } else { "http" };
        let database = if backend == "sqlite" { "sqlite" } else { "postgresql" };
        Ok(Self { spans, scope, own: ServiceAttributes { scheme, address, database } })
    }

    /// Queues the spans of a request whose response has just been made.
    pub fn export(&self, traced: &TracedRequest<'_>) {
        if !traced.trace.sampled {
            return;
        }
        let end = SystemTime::now();
        let began = end - traced.sample.elapsed;
        let asked = began + traced.before;
        let took = asked + traced.sample.queue;
        let parts = [
            ("queue", SpanKind::Internal, asked, traced.sample.queue),
            ("database", SpanKind::Client, took, traced.sample.database),
        ];
        self.spans.on_end(self.server_span(traced, began, end));
        for (name, kind, start, lasted) in parts {
            if lasted > Duration::ZERO {
                let end = start + lasted;
                self.spans.on_end(self.part_span(traced, (name, kind), start, end));
            }
        }
    }

    /// Sends the waiting spans, and stops sending.
    pub fn end(&self) {
        // An error is ignored: a collector that cannot be reached now does not get the spans in any
        // case.
        let _ = self.spans.shutdown_with_timeout(END_MAX);
    }

    fn server_span(
        &self,
        traced: &TracedRequest<'_>,
        start: SystemTime,
        end: SystemTime,
    ) -> SpanData {
        let TracedRequest { trace, sample, method, route, shard, .. } = traced;
        let mut attributes = vec![
            KeyValue::new("http.request.method", (*method).to_owned()),
            KeyValue::new("http.route", *route),
            // Not the path itself, which may hold a key.
            KeyValue::new("url.path", *route),
            KeyValue::new("url.scheme", self.own.scheme),
            KeyValue::new("server.address", self.own.address.ip().to_string()),
            KeyValue::new("server.port", i64::from(self.own.address.port())),
            KeyValue::new("network.protocol.version", "1.1"),
            KeyValue::new("http.response.status_code", i64::from(sample.status)),
            KeyValue::new("tessera.fanout", i64::from(sample.fanout)),
        ];
        let status = if sample.status >= 500 {
            attributes.push(KeyValue::new("error.type", sample.status.to_string()));
            Status::error("")
        } else {
            Status::Unset
        };
        attributes.extend(shard.map(|shard| KeyValue::new("tessera.shard", shard.to_owned())));
        attributes.extend(sample.slot.map(|slot| KeyValue::new("tessera.slot", i64::from(slot))));
        attributes.extend(sample.role.map(|role| KeyValue::new("tessera.role", role.name())));
        let parent = trace.parent.map_or(SpanId::INVALID, SpanId::from_bytes);
        SpanData {
            span_kind: SpanKind::Server,
            name: format!("{method} {route}").into(),
            parent_span_is_remote: trace.parent.is_some(),
            attributes,
            status,
            ..self.span(trace, trace.span, parent, (start, end))
        }
    }

    fn part_span(
        &self,
        TracedRequest { trace, sample, shard, .. }: &TracedRequest<'_>,
        (name, kind): (&'static str, SpanKind),
        start: SystemTime,
        end: SystemTime,
    ) -> SpanData {
        let mut attributes = Vec::new();
        if kind == SpanKind::Client {
            attributes.push(KeyValue::new("db.system.name", self.own.database));
            attributes.push(KeyValue::new("db.operation.name", sample.operation.name()));
        }
        attributes.extend(shard.map(|shard| KeyValue::new("tessera.shard", shard.to_owned())));
        let parent = SpanId::from_bytes(trace.span);
        SpanData {
            span_kind: kind,
            name: name.into(),
            attributes,
            ..self.span(trace, own_span(), parent, (start, end))
        }
    }

    fn span(
        &self,
        trace: &Trace,
        own: [u8; 8],
        parent_span_id: SpanId,
        (start_time, end_time): (SystemTime, SystemTime),
    ) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(trace.id),
                SpanId::from_bytes(own),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "".into(),
            start_time,
            end_time,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// Appends the path for traces to the URL of a collector, if the URL has no path.
fn with_path(endpoint: &str) -> String {
    let (_, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    match rest.split_once('/') {
        Some((_, path)) if !path.is_empty() => endpoint.to_owned(),
        Some(_) | None => format!("{}{PATH}", endpoint.trim_end_matches('/')),
    }
}

/// HTTP client of the exporter, whose thread may block.
#[derive(Debug)]
struct BlockingClient(Agent);

impl BlockingClient {
    fn new() -> Self {
        let trusted = rustls_native_certs::load_native_certs().certs;
        let trusted: Vec<Certificate<'static>> =
            trusted.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
        // The cryptography provider is named, because another crate may install a different default
        // for the process.
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&trusted));
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(EXPORT_MAX))
            .tls_config(tls.build());
        Self(agent.build().into())
    }
}

#[async_trait]
impl HttpClient for BlockingClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let mut answer = self.0.run(Request::from_parts(head, &*body))?;
        let body = answer.body_mut().read_to_vec()?;
        let mut response = Response::new(Bytes::from(body));
        (*response.status_mut(), *response.headers_mut()) =
            (answer.status(), answer.headers().clone());
        Ok(response)
    }
}
