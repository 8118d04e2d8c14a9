//! `POST /api/lab/levels`: runs the experiment `levels` on a small temporary cluster of files. The
//! route is available only with `--lab`, because it writes to the machine's disk.
//!
//! **Not here:** the experiment (`shard_manager::lab`), its thread and its end (`lab_runs`).

use std::time::{Duration, Instant};

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, post};
use serde::Serialize;
use shard_manager::lab::levels::{LevelFigures, LevelsOptions};
use utoipa::ToSchema;

use crate::app::App;
use crate::body_reader::Members;
use crate::headers::check_content_type;
use crate::lab_runs::LabRunError;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::ExperimentRefusals;

/// Longest time for the body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(5);
/// Maximum number of bytes of a body, which contains three numbers.
const BODY_BYTES_MAX: usize = 1_024;
/// Maximum number of replicas of each of the three shards.
const REPLICAS_MAX: u64 = 2;
/// Maximum number of writes, and of reads, for each consistency level.
const OPERATIONS_MAX: u64 = 500;
/// Maximum number of clients.
const CLIENTS_MAX: u64 = 8;
/// Seed from which the ids of the experiment's rows are generated.
const SEED: u64 = 1;

/// Size of the experiment; each member has a default.
#[derive(ToSchema)]
#[schema(as = NewLevelsRun, example = json!({"replicas": 1, "operations": 100, "clients": 4}))]
#[expect(dead_code, reason = "describes the body; the members are read without building it")]
pub(crate) struct LevelsRequest {
    /// Number of replicas of each of the three shards, which are cut off one after another; 1 by
    /// default.
    #[schema(minimum = 1, maximum = 2)]
    replicas: Option<u32>,
    /// Number of writes, and of reads, of each level; 100 by default.
    #[schema(minimum = 1, maximum = 500)]
    operations: Option<u32>,
    /// Number of clients; 4 by default.
    #[schema(minimum = 1, maximum = 8)]
    clients: Option<u32>,
}

/// Result of the experiment.
#[derive(Serialize, ToSchema)]
#[schema(as = LevelsRun, example = json!({
    "success": true, "shards": 3, "replicas": 1, "operations": 100, "clients": 4, "seed": 1, "seconds": 1.9,
    "engine": "SQLite 3.50.4 files, synchronous=FULL",
    "machine": "AMD EPYC, 2 cores, 7.8 GiB, linux 6.1.0; Tessera 0.1.0",
    "levels": [{
        "replicas_gone": 1, "level": "quorum", "writes": 0, "writes_refused": 100,
        "write_p50_ms": null, "write_p99_ms": null, "reads": 100, "reads_refused": 0,
        "read_p50_ms": 0.2, "read_p99_ms": 0.9,
        "first_refusal": "primary of shard1: too few replicas are connected"
    }],
    "explanation": "While a replica is cut off, `quorum` and `all` refuse."
}))]
pub(crate) struct LevelsAnswer {
    /// Always true.
    success: bool,
    /// Number of shards.
    shards: u64,
    /// Number of replicas of each shard.
    replicas: u64,
    /// Number of writes, and of reads, of each level.
    operations: u64,
    /// Number of clients.
    clients: u64,
    /// Seed of the ids of the rows.
    seed: u64,
    /// Duration of the experiment in seconds.
    seconds: f64,
    /// Engine of the cluster and its version.
    engine: String,
    /// Processor, cores, memory, kernel, and the version of Tessera.
    machine: String,
    /// Each level while 0, 1, … replicas of each shard are cut off.
    #[schema(value_type = Vec<LevelAnswer>)]
    levels: Vec<LevelFigures>,
    /// Summary of the result.
    explanation: String,
}

/// Requests of a level, while some replicas are cut off.
#[derive(ToSchema)]
#[schema(as = LevelFigures)]
#[expect(dead_code, reason = "describes the answer, which shard_manager writes")]
pub(crate) struct LevelAnswer {
    /// Number of replicas of each shard that are cut off.
    replicas_gone: u64,
    /// `one`, `quorum` or `all`.
    level: String,
    /// Number of writes that were stored.
    writes: u64,
    /// Number of writes that were refused.
    writes_refused: u64,
    /// Time within which half of the writes were answered; null if there are none.
    #[schema(required)]
    write_p50_ms: Option<f64>,
    /// Time within which 99 of 100 writes were answered; null if there are none.
    #[schema(required)]
    write_p99_ms: Option<f64>,
    /// Number of reads that were answered.
    reads: u64,
    /// Number of reads that were refused.
    reads_refused: u64,
    /// Time within which half of the reads were answered; null if there are none.
    #[schema(required)]
    read_p50_ms: Option<f64>,
    /// Time within which 99 of 100 reads were answered; null if there are none.
    #[schema(required)]
    read_p99_ms: Option<f64>,
    /// Reason of the first refusal; null if nothing was refused.
    #[schema(required)]
    first_refusal: Option<String>,
}

/// Runs the experiment `levels` on a small temporary cluster.
///
/// The cluster has three shards of files in a temporary folder, which is removed at the end.
/// Replicas are cut off one after another, and rows are written and read at each level. The
/// router's own cluster is not touched. One experiment runs at a time, for at most a minute, and it
/// ends early if its client disconnects.
#[utoipa::path(
    tag = "lab",
    request_body(content = Option<LevelsRequest>, description = "May be left out"),
    responses(
        (status = 200, description = "What was measured", body = LevelsAnswer),
        ExperimentRefusals,
    )
)]
#[post("/api/lab/levels")]
pub(crate) async fn play_levels(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    check_content_type(request.headers())?;
    let deadline = Instant::now() + BODY_WAIT;
    let (body, share) = app.read_body(&request, payload, BODY_BYTES_MAX, deadline).await?;
    let size = ExperimentSize::read(if body.is_empty() { b"{}" } else { &body })?;
    drop(share);
    let began = Instant::now();
    let result = app.lab_runs.levels(size.options()).await?;
    let seconds = (began.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0;
    let ExperimentSize { replicas, operations, clients } = size;
    Ok(HttpResponse::Ok().json(LevelsAnswer {
        success: true,
        shards: result.shards as u64,
        replicas,
        operations,
        clients,
        seed: SEED,
        seconds,
        engine: result.engine,
        machine: result.machine.sentence(),
        levels: result.figures,
        explanation: result.explanation,
    }))
}

/// Size of an experiment, checked against its limits.
#[derive(Clone, Copy)]
struct ExperimentSize {
    replicas: u64,
    operations: u64,
    clients: u64,
}

impl ExperimentSize {
    fn read(body: &[u8]) -> Result<Self, Problem> {
        let members = Members::of_body(body)?;
        members.check_names(&["replicas", "operations", "clients"])?;
        let number = |name: &str, default: u64, most: u64| {
            let Some(raw) = members.get(name).filter(|raw| raw.get() != "null") else {
                return Ok(default);
            };
            let number = raw.get().parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| {
                Problem::new(Code::TSR101, format!("{name} must be a number from 1 to {most}"))
                    .hint("`shard-manager lab levels` runs larger experiments, without a router")
            })
        };
        Ok(Self {
            replicas: number("replicas", 1, REPLICAS_MAX)?,
            operations: number("operations", 100, OPERATIONS_MAX)?,
            clients: number("clients", 4, CLIENTS_MAX)?,
        })
    }

    fn options(self) -> LevelsOptions {
        LevelsOptions {
            replicas: self.replicas as usize,
            operations: self.operations,
            clients: self.clients as u16,
            seed: SEED,
            work_folder: None,
        }
    }
}

impl From<LabRunError> for Problem {
    fn from(error: LabRunError) -> Self {
        let detail = error.to_string();
        match error {
            LabRunError::Runs => Self::new(Code::TSR348, detail)
                .hint("send the request again when it has ended, within a minute"),
            LabRunError::TooLong => {
                Self::new(Code::TSR349, detail).hint("request fewer operations or replicas")
            }
            LabRunError::Closing => Self::new(Code::TSR349, detail)
                .hint("send the request again once the router has restarted"),
            LabRunError::Failed(why) => {
                // The reason may contain paths of this machine, so only the log names it.
                tracing::warn!(why, "a lab experiment failed");
                Self::new(Code::TSR349, detail).hint("the log of the router names the reason")
            }
        }
    }
}
