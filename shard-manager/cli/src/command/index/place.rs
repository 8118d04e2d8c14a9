//! Place: the router or data directory to which a command about indexes sends its request.
//!
//! Building or dropping an index needs the router that `--url` names. Listing indexes needs no
//! router: the catalog in a data directory can be read instead.
//!
//! **Not here:** the output (`index`).

use std::path::PathBuf;

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlite::listed_indexes::indexes_of_dir;
use sqlite::offline_view::DirView;

use super::super::http_agent::RouterAddress;
use super::super::place_flags::PlaceFlags;
use super::super::router::Router;
use super::super::{ClusterSource, CommandError};
use super::view::{IndexPlanView, IndexView};

/// Router that builds and drops indexes, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct RouterArgs {
    /// Router that builds or drops the index, while rows are read and written [default:
    /// http://127.0.0.1:3000]
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:3000",
        hide_default_value = true
    )]
    url: String,
    /// File with the API key for that router [env: TESSERA_KEY, the key itself]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Index to build.
#[derive(Clone, Debug)]
pub(super) struct NewIndex {
    /// Name of the index.
    pub(super) name: String,
    /// Names of the columns, in the order of the index.
    pub(super) columns: Vec<String>,
    /// True if rows of one shard key must differ in the columns.
    pub(super) unique: bool,
    /// Longest time in milliseconds for which writes of a shard may wait; `None` for the router's
    /// default.
    pub(super) pause_max_ms: Option<u64>,
}

impl NewIndex {
    fn body(&self) -> Value {
        let mut body = json!({"name": self.name, "columns": self.columns, "unique": self.unique});
        if let Some(pause) = self.pause_max_ms {
            body["pause_max_ms"] = pause.into();
        }
        body
    }
}

/// Access to the indexes of one table.
pub(super) struct IndexPlace {
    table: String,
    source: IndexSource,
    flags: PlaceFlags,
}

enum IndexSource {
    /// A router, which serves the cluster.
    Router(Box<Router>),
    /// A data directory, whose catalog is read.
    Files(PathBuf),
}

impl IndexPlace {
    /// Creates the place that the flags name.
    pub(super) fn of(source: &ClusterSource, table: &str) -> Result<Self, CommandError> {
        let flags = source.flags();
        let source = match source.router() {
            Some(address) => IndexSource::Router(Box::new(Router::at(&address)?)),
            None => IndexSource::Files(source.data_dir()?),
        };
        Self::new(source, table, flags)
    }

    /// Creates the place for a router.
    pub(super) fn of_router(router: &RouterArgs, table: &str) -> Result<Self, CommandError> {
        let RouterArgs { url, key_file } = router.clone();
        let address = RouterAddress { url, key_file };
        let router = Router::at(&address)?;
        let flags = PlaceFlags::of_router(&address);
        Self::new(IndexSource::Router(Box::new(router)), table, flags)
    }

    fn new(source: IndexSource, table: &str, flags: PlaceFlags) -> Result<Self, CommandError> {
        check_name("a table", table)?;
        Ok(Self { table: table.to_owned(), source, flags })
    }

    /// Returns the flags that name the place, for follow-up commands that messages suggest.
    pub(super) fn flags(&self) -> &PlaceFlags {
        &self.flags
    }

    /// Returns the name of the table.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Returns the indexes of the table, ordered by name.
    pub(super) fn list(&self) -> Result<Vec<IndexView>, CommandError> {
        match &self.source {
            IndexSource::Router(router) => read(router.get(&self.path(), &[])?["indexes"].take()),
            IndexSource::Files(data_dir) => {
                let view = DirView::open(data_dir)?;
                let shards = view.map.topology().members().count();
                let mut records = indexes_of_dir(data_dir)?;
                records.retain(|record| record.table == self.table);
                Ok(records.into_iter().map(|record| IndexView::of(record, shards)).collect())
            }
        }
    }

    /// Requests that an index be built, and returns its state at that time.
    pub(super) fn add(&self, index: &NewIndex) -> Result<IndexView, CommandError> {
        read(self.router()?.post(&self.path(), &index.body())?["index"].take())
    }

    /// Returns the effect that building an index would have. Nothing is built.
    pub(super) fn plan(&self, index: &NewIndex) -> Result<IndexPlanView, CommandError> {
        read(self.router()?.plan(&self.path(), &index.body())?)
    }

    /// Requests that an index be dropped, and returns its state at that time.
    pub(super) fn remove(&self, name: &str) -> Result<IndexView, CommandError> {
        check_name("an index", name)?;
        read(self.router()?.delete(&format!("{}/{name}", self.path()))?["index"].take())
    }

    fn router(&self) -> Result<&Router, CommandError> {
        match &self.source {
            IndexSource::Router(router) => Ok(router),
            IndexSource::Files(_) => Err(CommandError::Refused(
                "indexes are built by a router: name it with --url".to_owned(),
            )),
        }
    }

    fn path(&self) -> String {
        format!("/api/tables/{}/indexes", self.table)
    }
}

/// Returns an error if a name has characters that would change the URL path of the request.
fn check_name(what: &str, name: &str) -> Result<(), CommandError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(is_name) {
        let line = format!("{name:?} cannot be the name of {what}: a name has a-z, 0-9 and _ only");
        return Err(CommandError::Refused(line));
    }
    Ok(())
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, CommandError> {
    serde_json::from_value(answer).map_err(|error| {
        CommandError::Refused(format!("this is not the response of a router: {error}"))
    })
}
