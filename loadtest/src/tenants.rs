//! Tenants: creates the role and the keys of a run with `--tenants`, and removes them.
//!
//! With the API key of the run, the tester creates a role that restricts access to the rows of one
//! tenant, and an API key for each tenant. In case the process is killed before it removes these
//! API keys, each of them expires a day after the run.
//!
//! **Invariant:** no API key of a tenant is printed or written to a file.
//! **Not here:** the requests of tenants (`load`, `verify`), the search for rows of other tenants
//! (`clients`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{SecondsFormat, TimeDelta, Utc};
use credential::Credential;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clients::{Client, Clients};
use crate::http_client::{HttpRequest, Pool};
use crate::keyspace::TenantKeys;
use crate::options::{Options, parse_time};
use crate::own_rows::{self, OwnRows, send};
use crate::requests;
use crate::response_check::Failure;

/// Prefix of the name of a role that a run creates.
const ROLE_PREFIX: &str = "loadtest_v";
/// Time after the end of the run for which an API key is still valid.
const LIFE_BEYOND: TimeDelta = TimeDelta::days(1);
/// Longest wait until all routers know the API keys.
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// Role and API keys of a run.
pub(crate) struct Tenants {
    pool: Arc<Pool>,
    role: String,
    has_role: bool,
    /// Ids of the API keys.
    ids: Vec<String>,
    clients: Vec<Arc<Client>>,
}

#[derive(Deserialize)]
struct CreatedKey {
    id: String,
    key: String,
}

#[derive(Deserialize)]
struct KeyList {
    keys: Vec<ListedKey>,
}

#[derive(Deserialize)]
struct ListedKey {
    id: String,
    role: String,
    revoked_at: Option<String>,
}

#[derive(Deserialize)]
struct RoleList {
    roles: Vec<Value>,
}

impl Tenants {
    /// Creates the role and the API keys, and waits until all routers know them. If this fails,
    /// everything that was created is removed again.
    ///
    /// # Errors
    /// Fails if a router has no access control, or if the key of the run lacks a right.
    pub(crate) async fn create(
        options: &Options,
        count: u32,
        pools: &[Arc<Pool>],
        own: &OwnRows,
    ) -> anyhow::Result<Self> {
        let pool = Arc::clone(&pools[0]);
        ensure!(
            pool.has_credential(),
            "--tenants needs the key of an administrator: name its file by --key-file, or set TESSERA_KEY"
        );
        let role = format!("loadtest_{}", own.names().run());
        let mut tenants =
            Self { pool, role, has_role: false, ids: Vec::new(), clients: Vec::new() };
        match tenants.create_all(options, count, own).await {
            Ok(()) => Ok(tenants),
            Err(error) => {
                tenants.remove().await;
                Err(error)
            }
        }
    }

    async fn create_all(
        &mut self,
        options: &Options,
        count: u32,
        own: &OwnRows,
    ) -> anyhow::Result<()> {
        let rule = format!("$tenant{}*", TenantKeys::SEPARATOR);
        let role = json!({"role": self.role, "grants": [{
            "tables": own.tables(), "may": ["read", "insert", "update", "delete"],
            "keys": rule, "scatter": "filter",
        }], "scopes": []});
        let path = format!("/api/access/roles/{}", self.role);
        let asked = requests::json(Method::PUT, &path, &role);
        send(&self.pool, asked, "creating the role of the tenants")
            .await
            .context("--tenants needs a router with --access on, and a key of the role admin")?;
        self.has_role = true;
        for number in 0..count {
            let client = self.create_key(options, number, own).await?;
            self.clients.push(Arc::new(client));
        }
        let last = self.clients.last().context("there are tenants")?;
        for router in 0..options.targets.len() {
            await_key(last.pool(router)).await?;
        }
        Ok(())
    }

    async fn create_key(
        &mut self,
        options: &Options,
        number: u32,
        own: &OwnRows,
    ) -> anyhow::Result<Client> {
        let names = Arc::new(own.names().as_ref().clone().of_tenant(number)?);
        let run_time = options.goose.run_time.as_deref().and_then(parse_time).unwrap_or_default();
        let end = Utc::now() + LIFE_BEYOND + TimeDelta::from_std(run_time)?;
        let key = json!({
            "role": self.role, "tenants": names.tenant().map(TenantKeys::beginnings),
            "name": format!("tenant {number}"),
            "expires_at": end.to_rfc3339_opts(SecondsFormat::Secs, true),
        });
        let asked = requests::json(Method::POST, "/api/access/keys", &key);
        let answer = send(&self.pool, asked, "creating a key").await?;
        let made: CreatedKey = serde_json::from_slice(&answer.body)
            .map_err(|_| anyhow::anyhow!("creating a key was answered without a key"))?;
        self.ids.push(made.id);
        let pools = Pool::of(&options.targets, Some(&Credential::parse(&made.key)?))?;
        Ok(Client::new(pools, names))
    }

    /// Returns the clients of the run.
    pub(crate) fn clients(&self, pools: Vec<Arc<Pool>>, own: &OwnRows) -> Clients {
        Clients::of_run(pools, Arc::clone(own.names())).with_tenants(self.clients.clone())
    }

    /// Revokes the API keys and removes the role, and reports those that could not be removed.
    pub(crate) async fn remove(&self) {
        for id in &self.ids {
            if let Err(error) = revoke(&self.pool, id).await {
                own_rows::say(&format!(
                    "the key {id} of this run is left: {error:#}; --clean removes it"
                ));
            }
        }
        if !self.has_role {
            return;
        }
        if let Err(error) = remove_role(&self.pool, &self.role).await {
            let role = &self.role;
            own_rows::say(&format!("the role {role} is left: {error:#}; --clean removes it"));
        }
    }
}

/// Waits until a router accepts a key that another router has created.
async fn await_key(pool: &Pool) -> anyhow::Result<()> {
    let began = Instant::now();
    while let Err(error) = send(pool, requests::get("/api/access/me"), "the key of a tenant").await
    {
        ensure!(began.elapsed() < SPREAD_MAX, "a router does not learn of the keys: {error:#}");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn revoke(pool: &Pool, id: &str) -> anyhow::Result<()> {
    let asked = without_body(Method::DELETE, &format!("/api/access/keys/{id}"));
    send(pool, asked, "revoking a key").await.map(drop)
}

async fn remove_role(pool: &Pool, name: &str) -> anyhow::Result<()> {
    let asked = without_body(Method::DELETE, &format!("/api/access/roles/{name}"));
    send(pool, asked, "removing a role").await.map(drop)
}

fn without_body(method: Method, path: &str) -> Result<HttpRequest, Failure> {
    let mut asked = requests::get(path)?;
    *asked.method_mut() = method;
    Ok(asked)
}

/// Revokes the API keys and removes the roles that runs have left behind, including those of runs
/// in progress.
///
/// # Errors
/// Fails if the router does not respond, or if the key of this run lacks a right.
pub(crate) async fn clean(pool: &Pool) -> anyhow::Result<()> {
    let answer = send(pool, requests::get("/api/access/keys"), "listing keys").await?;
    let list: KeyList = serde_json::from_slice(&answer.body).context("no list of keys")?;
    let is_left = |key: &&ListedKey| key.revoked_at.is_none() && key.role.starts_with(ROLE_PREFIX);
    let left: Vec<&ListedKey> = list.keys.iter().filter(is_left).collect();
    for key in &left {
        revoke(pool, &key.id).await?;
    }
    let answer = send(pool, requests::get("/api/access/roles"), "listing roles").await?;
    let list: RoleList = serde_json::from_slice(&answer.body).context("no list of roles")?;
    let names = list.roles.iter().filter_map(|role| role["name"].as_str());
    let names: Vec<&str> = names.filter(|name| name.starts_with(ROLE_PREFIX)).collect();
    for name in &names {
        remove_role(pool, name).await?;
    }
    if left.len() + names.len() > 0 {
        let (keys, roles) = (left.len(), names.len());
        own_rows::say(&format!("{keys} keys revoked and {roles} roles removed"));
    }
    Ok(())
}
