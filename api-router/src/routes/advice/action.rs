//! Action: the HTTP request that carries out a finding of the advice, and the equivalent shell
//! command.
//!
//! **Invariant:** a command is a single shell line, in which names and values from clients are
//! quoted.
//! **Not here:** the choice of remedies (`shard_manager::advice`), carrying out the requests
//! (`moves`, `rebalances`).

use actix_web::HttpRequest;
use serde::Serialize;
use serde_json::{Value, json};
use shard_manager::access::scope::AccessScope;
use shard_manager::advice::BalanceBy;
use utoipa::ToSchema;

use crate::app::App;
use crate::router_address::router_address;

const MOVES: &str = "/api/moves";
const REBALANCE: &str = "/api/rebalance";
/// Command line flag that permits changes of shards and slots in a router without access control.
const FLAG: &str = "--operate";

/// Request that carries out a finding.
#[derive(Serialize, ToSchema)]
#[schema(as = AdviceAction, example = json!({
    "method": "POST", "url": "http://localhost:3000/api/moves", "path": "/api/moves",
    "body": {"slots": "9741", "from": "shard2", "to": "shard3"},
    "command": "shard-manager move start --slots 9741 --from shard2 --to shard3 --url http://localhost:3000",
    "requires": "--operate", "allowed": true
}))]
pub(crate) struct ActionView {
    /// Always `POST`.
    method: &'static str,
    /// URL of the request, at the address by which the router was reached.
    url: String,
    /// Path of `url`.
    path: &'static str,
    /// Body, as JSON.
    #[schema(value_type = Object)]
    body: Value,
    /// The equivalent command, as one line for a shell. With access control it takes its
    /// API key from TESSERA_KEY or --key-file.
    command: String,
    /// Right that the request needs: `operate`, a scope of the caller, with access control;
    /// otherwise `--operate`, a flag of the router.
    requires: &'static str,
    /// True if this caller may send the request to this router.
    allowed: bool,
}

/// Builder of all actions in one response.
pub(super) struct Actions {
    /// URL of the router without a path.
    router: String,
    /// Table group that the advice is about; `None` if all tables are in one group.
    group: Option<String>,
    requires: &'static str,
    is_allowed: bool,
}

impl Actions {
    /// Creates the builder for a request for advice about a table group, or about all tables.
    pub(super) fn of(app: &App, request: &HttpRequest, group: Option<String>) -> Self {
        let is_enforced = app.gate.as_ref().is_some_and(|gate| gate.is_enforced());
        let (requires, is_allowed) = if is_enforced {
            let rights = app.rights(request);
            (AccessScope::Operate.name(), rights.allow_scope(AccessScope::Operate).is_ok())
        } else {
            (FLAG, app.operate)
        };
        Self { router: router_address(app, request), group, requires, is_allowed }
    }

    /// Returns the action that moves one slot. The slot's number also determines its table group.
    pub(super) fn move_slot(&self, slot: u16, from: &str, to: &str) -> ActionView {
        let slot = slot.to_string();
        let words = ["move", "start", "--slots", &slot, "--from", from, "--to", to];
        self.post(MOVES, json!({"slots": slot, "from": from, "to": to}), &words)
    }

    /// Returns the action that rebalances the table group by load or by size.
    pub(super) fn rebalance(&self, by: BalanceBy) -> ActionView {
        let words = ["rebalance", "--by", by.name()];
        let Some(group) = &self.group else {
            return self.post(
                REBALANCE,
                json!({"by": by.name()}),
                &[&words[..], &["--yes"]].concat(),
            );
        };
        let words = [&words[..], &["--group", group, "--yes"]].concat();
        self.post(REBALANCE, json!({"by": by.name(), "group": group}), &words)
    }

    fn post(&self, path: &'static str, body: Value, words: &[&str]) -> ActionView {
        let words = [&["shard-manager"], words, &["--url", &self.router]].concat();
        let words: Vec<String> = words.into_iter().map(quoted).collect();
        ActionView {
            method: "POST",
            url: format!("{}{path}", self.router),
            path,
            body,
            command: words.join(" "),
            requires: self.requires,
            allowed: self.is_allowed,
        }
    }
}

/// Returns a word of a command, quoted for a shell if necessary.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_shell_would_change_are_quoted() {
        for plain in ["shard-1", "http://127.0.0.1:3000", "0-63,70"] {
            assert_eq!(quoted(plain), plain);
        }
        for (word, expected) in
            [("", "''"), ("a b", "'a b'"), ("[::1]", "'[::1]'"), ("a'$b", r"'a'\''$b'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
