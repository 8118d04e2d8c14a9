//! Ports: where the servers of a local cluster listen.
//!
//! **Invariant:** a port that is chosen was free, and lies below those that the system gives to outgoing connections: so
//! it will be free again after a stop.
//! **Not here:** keeping them (`manifest`).

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use uuid::Uuid;

use super::error::LocalError;

const CHOSEN: Range<u16> = 20_000..32_000;

/// Whether a server could listen on a port.
///
/// # Errors
/// Why it could not.
pub(super) fn try_out(port: u16) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// Free ports from anywhere, none of which is taken already.
pub(super) fn anywhere(count: usize, taken: &[u16]) -> Result<Vec<u16>, LocalError> {
    let width = CHOSEN.end - CHOSEN.start;
    // Somewhere else each time: two clusters that are made at once do not choose the same.
    let start = (Uuid::new_v4().as_u128() % u128::from(width)) as u16;
    let all = (0..width).map(|step| CHOSEN.start + (start + step) % width);
    let free = all.filter(|port| !taken.contains(port) && try_out(*port).is_ok());
    let found: Vec<u16> = free.take(count).collect();
    if found.len() == count { Ok(found) } else { Err(LocalError::NoPort) }
}

/// So many ports in a row from this one, as its user asks.
pub(super) fn in_a_row(first: u16, count: usize) -> Result<Vec<u16>, LocalError> {
    let end = usize::from(first) + count;
    if first == 0 || end > usize::from(u16::MAX) + 1 {
        return Err(LocalError::PortsEnd { first, wanted: count });
    }
    Ok((first..=u16::MAX).take(count).collect())
}

/// Free ports above those that are taken.
pub(super) fn above(taken: &[u16], count: usize) -> Result<Vec<u16>, LocalError> {
    let last = taken.iter().copied().max().unwrap_or(CHOSEN.start);
    let free = (last..=u16::MAX).skip(1).filter(|port| try_out(*port).is_ok());
    let found: Vec<u16> = free.take(count).collect();
    if found.len() == count {
        return Ok(found);
    }
    Err(LocalError::PortsEnd { first: last, wanted: count })
}
