//! Metrics view: makes responses from the recorded requests and the state of the cluster, and
//! renders them on threads that serve no requests.
//!
//! **Not here:** recording (`middleware`), HTTP (`routes`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, block};
use analytics::event_stream::Hub;
use analytics::{
    AccessNow, BackupsNow, ClusterNow, ErrorLog, Labels, MemoryNow, Metrics, MetricsQuery,
    Recorder, figures, openmetrics,
};
use serde::Serialize;
use shard_manager::manager::Manager;
use shard_manager::topology::ShardNumber;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use crate::cluster_status::ClusterStatus;
use crate::data_route::ROUTES;
use crate::problem::{Code, Problem};

/// Time after which the second that is being recorded has ended.
const SECOND: Duration = Duration::from_secs(1);

/// Recorder of a router, with the state of its cluster.
pub struct MetricsView {
    /// Recorder of requests.
    pub recorder: Recorder,
    status: ClusterStatus,
}

/// Metrics of a window.
#[derive(Serialize, ToSchema)]
pub struct MetricsAnswer {
    /// Always true.
    success: bool,
    /// The metrics.
    metrics: Metrics,
}

impl MetricsView {
    /// Starts to record; background work runs on `runtime`.
    pub fn new(manager: &Arc<Manager>, runtime: &Handle, backend: &'static str) -> Self {
        let (routes, shards) = (ROUTES.to_vec(), Vec::new());
        // If another router adds a table group later, the requests for its slots are counted by
        // slot only after a restart.
        let slots = manager.map().groups().slot_count().min(Labels::SLOTS_MAX);
        let labels = Labels { routes, shards, slots };
        let status = ClusterStatus::new(Arc::clone(manager), runtime.clone(), backend);
        let recorder = Recorder::new(labels);
        for shard in manager.shards().numbers() {
            recorder.shards.add(shard.0, manager.shard_name(shard));
        }
        Self { recorder, status }
    }

    /// Registers the name of a shard in the recorder, unless the recorder knows it already. Shards
    /// can join while the router runs.
    #[inline]
    pub fn name_shard(&self, manager: &Manager, shard: u16) {
        if !self.recorder.shards.knows(shard) {
            self.recorder.shards.add(shard, manager.shard_name(ShardNumber(shard)));
        }
    }

    /// Returns the state of the cluster.
    pub async fn now(&self) -> ClusterNow {
        self.status.refresh().await;
        self.status.now(self.recorder.in_flight())
    }

    /// Returns the metrics that a query selects, as JSON. Each request that was served before the
    /// query is counted exactly once.
    ///
    /// # Errors
    /// TSR500 if no thread is available to render the metrics.
    pub async fn answer(self: &Arc<Self>, query: MetricsQuery) -> Result<Bytes, Problem> {
        let now = self.now().await;
        let own = Arc::clone(self);
        run_blocking(move || own.render(&query, &now)).await
    }

    /// Returns the metrics in the OpenMetrics format, for scrapers such as Prometheus.
    ///
    /// # Errors
    /// TSR500 if no thread is available to render the metrics.
    pub async fn exposition(
        self: &Arc<Self>,
        errors: Arc<ErrorLog>,
        memory: MemoryNow,
        access: Option<AccessNow>,
        backups: Option<BackupsNow>,
    ) -> Result<String, Problem> {
        let now = self.now().await;
        let own = Arc::clone(self);
        run_blocking(move || openmetrics(&own.recorder, &errors, &now, memory, access, backups))
            .await
    }

    /// Completes the second that is being recorded, so that its requests can be stored. No request
    /// may be recorded afterwards. Longer intervals are continued after a restart.
    pub fn finish(&self) {
        self.recorder.settle_at(Instant::now() + SECOND);
    }

    fn render(&self, query: &MetricsQuery, now: &ClusterNow) -> Bytes {
        let history = self.recorder.history();
        let metrics = figures(&[history], query, now, self.recorder.at_ms());
        let answer = MetricsAnswer { success: true, metrics };
        serde_json::to_vec(&answer).expect("figures are numbers and texts").into()
    }
}

/// Runs work of some milliseconds on a thread that may block.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    block(work).await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))
}

/// Builds the hub that shares one event among all viewers of the same query. The closure may block.
pub fn hub(figures: &Arc<MetricsView>, runtime: &Handle) -> Arc<Hub<MetricsQuery>> {
    let (figures, handle) = (Arc::clone(figures), runtime.clone());
    Hub::new(runtime.clone(), move |query: &MetricsQuery| {
        let now = handle.block_on(figures.now());
        figures.render(query, &now)
    })
}
