//! Ports: chooses the ports of a local cluster.
//!
//! **Invariant:** a port that this program chooses was free at that time. If the user names no
//! first port, the chosen ports lie below the system's range for outgoing connections, so that they
//! stay free while the servers are stopped.
//! **Not here:** storing the ports (`manifest`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use socket2::{Domain, Socket, Type};
use uuid::Uuid;

use crate::error::LocalError;

const CHOICE: Range<u16> = 20_000..32_000;

/// Checks that a server can listen on a port. The socket of this check is bound in shared mode and
/// never listens. A process that another thread forks at this moment inherits the socket until it
/// executes its program, and the inherited socket must not prevent the server from listening.
///
/// # Errors
/// The error of the system if the port cannot be bound.
pub(super) fn check_free(port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
}

/// Chooses free ports, none of which is in `taken`.
pub(super) fn choose_free(count: usize, taken: &[u16]) -> Result<Vec<u16>, LocalError> {
    let width = CHOICE.end - CHOICE.start;
    // The search starts at a random port, so that two clusters that are created at the same time
    // are unlikely to choose the same ports.
    let start = (Uuid::new_v4().as_u128() % u128::from(width)) as u16;
    let all = (0..width).map(|step| CHOICE.start + (start + step) % width);
    let free = all.filter(|port| !taken.contains(port) && check_free(*port).is_ok());
    let found: Vec<u16> = free.take(count).collect();
    if found.len() == count { Ok(found) } else { Err(LocalError::NoPort) }
}

/// Returns consecutive ports, beginning with the one that the user named.
pub(super) fn consecutive(first: u16, count: usize) -> Result<Vec<u16>, LocalError> {
    let end = usize::from(first) + count;
    if first == 0 || end > usize::from(u16::MAX) + 1 {
        return Err(LocalError::PortsEnd { first, wanted: count });
    }
    Ok((first..=u16::MAX).take(count).collect())
}

/// Returns free ports above all ports in `taken`.
pub(super) fn above(taken: &[u16], count: usize) -> Result<Vec<u16>, LocalError> {
    let last = taken.iter().copied().max().unwrap_or(CHOICE.start);
    let free = (last..=u16::MAX).skip(1).filter(|port| check_free(*port).is_ok());
    let found: Vec<u16> = free.take(count).collect();
    if found.len() == count {
        return Ok(found);
    }
    Err(LocalError::PortsEnd { first: last, wanted: count })
}
