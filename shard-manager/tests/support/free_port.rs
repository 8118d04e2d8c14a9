//! Ports for servers that cannot choose one themselves.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below those that the system assigns for outgoing connections, and below those that a local
/// cluster chooses for its servers (20,000 to 31,999), so that no other program takes one before
/// its server has started, or while that is down.
const PORTS: Range<u16> = 10_000..20_000;

/// Returns a port of the loopback interface on which no program listens: each call another one.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of several processes begin at different ports.
    let begin = std::process::id().wrapping_mul(61) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin);
        let port = PORTS.start + step % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
