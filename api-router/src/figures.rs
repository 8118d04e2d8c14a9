//! Figures: what was counted, with the cluster as it is now, made into answers away from the threads that serve requests.
//!
//! **Not here:** counting (`gate`), HTTP (`routes`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, block};
use analytics::event_stream::Hub;
use analytics::{
    ClusterNow, ErrorLog, Labels, Metrics, MetricsQuery, Recorder, figures, openmetrics,
};
use serde::Serialize;
use shard_manager::keyspace::SLOT_COUNT;
use shard_manager::manager::Manager;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use crate::data_route::ROUTES;
use crate::lookout::Lookout;
use crate::problem::{Code, Problem};

/// After so long the second that runs now has ended.
const SECOND: Duration = Duration::from_secs(1);

/// The figures of a router.
pub struct Figures {
    /// What counts.
    pub recorder: Recorder,
    lookout: Lookout,
}

/// The figures of a window.
#[derive(Serialize, ToSchema)]
pub struct MetricsAnswer {
    /// Always true.
    success: bool,
    /// The figures.
    metrics: Metrics,
}

impl Figures {
    /// Counts from now on; what is made beside requests is made on `runtime`.
    pub fn new(manager: &Arc<Manager>, runtime: &Handle, backend: &'static str) -> Self {
        let map = manager.map();
        let shards = map.topology().shards().iter().map(|shard| shard.name.clone()).collect();
        let labels = Labels { routes: ROUTES.to_vec(), shards, slots: usize::from(SLOT_COUNT) };
        let lookout = Lookout::new(Arc::clone(manager), runtime.clone(), backend);
        Self { recorder: Recorder::new(labels), lookout }
    }

    /// The cluster as it is now.
    pub async fn now(&self) -> ClusterNow {
        self.lookout.look().await;
        self.lookout.now(self.recorder.in_flight())
    }

    /// The answer to a question, as JSON: of requests that were answered before it, of each exactly once.
    ///
    /// # Errors
    /// TSR500 if there is no thread to make it.
    pub async fn answer(self: &Arc<Self>, query: MetricsQuery) -> Result<Bytes, Problem> {
        let now = self.now().await;
        let own = Arc::clone(self);
        apart(move || own.render(&query, &now)).await
    }

    /// What scrapers are told.
    ///
    /// # Errors
    /// TSR500 if there is no thread to make it.
    pub async fn exposition(self: &Arc<Self>, errors: Arc<ErrorLog>) -> Result<String, Problem> {
        let now = self.now().await;
        let own = Arc::clone(self);
        apart(move || openmetrics(&own.recorder, &errors, &now)).await
    }

    /// Ends the running second, so that what is in it can be kept: nothing is counted any more. Longer slots go on after a
    /// restart.
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

/// Does what takes milliseconds on a thread that may take its time.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    block(work).await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))
}

/// Builds what viewers of the same question share. Whoever runs this may block.
pub fn hub(figures: &Arc<Figures>, runtime: &Handle) -> Arc<Hub<MetricsQuery>> {
    let (figures, handle) = (Arc::clone(figures), runtime.clone());
    Hub::new(runtime.clone(), move |query: &MetricsQuery| {
        let now = handle.block_on(figures.now());
        figures.render(query, &now)
    })
}
