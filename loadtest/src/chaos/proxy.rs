//! Proxy: forwards connections to one server, and can cut, delay or lose their traffic.
//!
//! **Invariant:** bytes are forwarded in order and unchanged, or the connection ends. A connection
//! that has lost bytes is never used again.
//! **Not here:** the times of faults (`schedule`).

mod frames;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::frames::Frames;

/// Maximum number of bytes read at once.
const CHUNK: usize = 1 << 16;
/// Longest wait for a server to end a statement whose response is lost.
const END_MAX: Duration = Duration::from_millis(500);
/// Maximum number of connections that wait to be accepted (the backlog of the listener).
const BACKLOG: u32 = 1024;

/// State of the connections to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyState {
    /// All bytes are forwarded.
    Open,
    /// Connections end, and new ones are refused.
    Cut,
    /// Bytes are discarded in both directions, and connections stay open.
    HalfOpen,
    /// All bytes are forwarded, with this delay in each direction.
    Slow(Duration),
    /// Responses to stored writes are lost and their connections are closed, until the number that
    /// was set by `lose` is reached.
    Lossy,
}

/// Forwarding port in front of one server. Dropping it closes the port and its connections.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    state: watch::Sender<ProxyState>,
    to_lose: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Opens a port that forwards all bytes to `server`.
    ///
    /// # Errors
    /// Fails if no port is free.
    pub(super) async fn open(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, watched) = watch::channel(ProxyState::Open);
        let to_lose = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn(serve(listener, server, watched, Arc::clone(&to_lose)));
        Ok(Self { port, state, to_lose, task })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Changes the state, which also affects open connections.
    pub(super) fn set(&self, state: ProxyState) {
        self.state.send_replace(state);
    }

    /// Sets the number of responses to writes that will be lost in the state [`ProxyState::Lossy`].
    pub(super) fn lose(&self, count: u32) {
        self.to_lose.store(count, Ordering::Relaxed);
        self.set(ProxyState::Lossy);
    }

    /// Returns the number of responses that are still to be lost.
    pub(super) fn left_to_lose(&self) -> u32 {
        self.to_lose.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut listener: TcpListener,
    server: SocketAddr,
    mut state: watch::Receiver<ProxyState>,
    to_lose: Arc<AtomicU32>,
) {
    let Ok(own) = listener.local_addr() else { return };
    loop {
        if *state.borrow_and_update() == ProxyState::Cut {
            drop(listener);
            // While the state is `Cut`, the port stays reserved, and connections are refused.
            let Some(held) = hold(own).await else { return };
            if state.wait_for(|state| *state != ProxyState::Cut).await.is_err() {
                return;
            }
            let Ok(again) = held.listen(BACKLOG) else { return };
            listener = again;
            continue;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            taken = listener.accept() => {
                let Ok((client, _)) = taken else { continue };
                let (state, to_lose) = (state.clone(), Arc::clone(&to_lose));
                tokio::spawn(async move {
                    tokio::select! {
                        () = broken(state.clone()) => {}
                        _ = carry(client, server, state, to_lose) => {}
                    }
                });
            }
        }
    }
}

/// Binds a port without listening, so that connections are refused and no other program can listen
/// on it.
async fn hold(own: SocketAddr) -> Option<TcpSocket> {
    for _ in 0..100 {
        let held = TcpSocket::new_v4().and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(own)?;
            Ok(socket)
        });
        match held {
            Ok(held) => return Some(held),
            // The address may still be in use, because another thread closes the old listener a
            // moment later.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    None
}

/// Waits until the state no longer allows a connection to go on.
async fn broken(mut state: watch::Receiver<ProxyState>) {
    loop {
        let was = *state.borrow_and_update();
        if was == ProxyState::Cut || state.changed().await.is_err() {
            return;
        }
        if was == ProxyState::HalfOpen && *state.borrow() != ProxyState::HalfOpen {
            return;
        }
    }
}

async fn carry(
    client: TcpStream,
    server: SocketAddr,
    state: watch::Receiver<ProxyState>,
    to_lose: Arc<AtomicU32>,
) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        up = ask(from_client, to_server, state.clone()) => up,
        down = answer(from_server, to_client, state, to_lose) => down,
    }
}

async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: watch::Receiver<ProxyState>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        pass(&chunk[..count], &mut to, &state).await?;
    }
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: watch::Receiver<ProxyState>,
    to_lose: Arc<AtomicU32>,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        // The stream is parsed in every state, because the boundaries of messages can be found only
        // from the beginning of the stream.
        let reported = frames.read(&chunk[..count]);
        let is_lossy = *state.borrow() == ProxyState::Lossy;
        if reported.stored && is_lossy && take_one(&to_lose) {
            let mut is_ended = reported.ready;
            let ended = async {
                while !is_ended {
                    let count = from.read(&mut chunk).await?;
                    is_ended = count == 0 || frames.read(&chunk[..count]).ready;
                }
                io::Result::Ok(())
            };
            // The server may first end the statement that it has begun; then the connection is
            // closed on both sides.
            let _ = tokio::time::timeout(END_MAX, ended).await;
            return Ok(());
        }
        pass(&chunk[..count], &mut to, &state).await?;
    }
}

fn take_one(count: &AtomicU32) -> bool {
    let less = |left: u32| left.checked_sub(1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

async fn pass(
    bytes: &[u8],
    to: &mut OwnedWriteHalf,
    state: &watch::Receiver<ProxyState>,
) -> io::Result<()> {
    let now = *state.borrow();
    match now {
        ProxyState::Open | ProxyState::Lossy => to.write_all(bytes).await,
        ProxyState::Slow(by) => {
            tokio::time::sleep(by).await;
            to.write_all(bytes).await
        }
        // The connection is closed before it forwards anything else.
        ProxyState::Cut | ProxyState::HalfOpen => Ok(()),
    }
}
