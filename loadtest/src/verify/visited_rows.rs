//! Visited rows: rows that one session uses now and then, each with a token of its own.
//!
//! The token of a session soon covers the latest changes of all shards, and so it excludes most
//! old answers by itself. The token of a visited row has the responses about this row only: it
//! covers the shards that have owned its slot, each up to the last visit. After a slot has moved
//! away and back, this token no longer excludes an old answer of the owner: the router must.
//!
//! **Invariant:** every request of the session for a visited row carries the token of that row, and
//! no other session changes the row.
//! **Not here:** the rows of all sessions (`register`).

use std::mem;

use checker::history::Level;

use super::VISITED_ROWS;
use super::attempt::Done;
use super::register::{self, Read};
use super::session::Session;

/// Writes a random one of the visited rows, or reads it if the last visit was a write.
pub(super) async fn visit(session: &mut Session) -> Done {
    let number = session.random.below(VISITED_ROWS);
    let other = session.percent(50);
    let row = session.client.names.visited(session.log.number(), number);
    let mut visited = mem::take(&mut session.visited[number as usize]);
    mem::swap(&mut session.token, &mut visited.token);
    let last = session.last.take();
    session.is_visiting = true;
    let done = if visited.is_written {
        let how = Read { level: Level::One, token: true, bound_ms: 0, other };
        register::read(session, &row, how).await
    } else {
        register::write(session, &row).await
    };
    session.is_visiting = false;
    // Later repetitions and reads of the last write are sent with the token of the session.
    session.last = last;
    mem::swap(&mut session.token, &mut visited.token);
    visited.is_written = !visited.is_written;
    session.visited[number as usize] = visited;
    done
}
