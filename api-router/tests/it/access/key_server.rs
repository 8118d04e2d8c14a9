//! Key server: a local HTTP server that publishes the keys of issuers, and can respond incorrectly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Response to a request for keys.
#[derive(Clone)]
pub(super) enum Served {
    /// A document.
    Document(String),
    /// A document, and the value of the header `Date`.
    Dated(String, &'static str),
    /// A status without a body, and a header.
    Status(&'static str, String),
    /// Nothing: the connection stays open.
    Silence,
    /// The head of a document, then a byte every half second.
    Drops,
}

/// Requests that were received: their paths, and the time before their responses were sent. The
/// client may have a response before the thread that has sent it runs again.
type Received = Vec<(String, Instant)>;

/// A running server, which ends when it is dropped.
pub(super) struct KeyServer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    served: Mutex<BTreeMap<String, Served>>,
    received: Mutex<Received>,
    is_over: AtomicBool,
}

impl KeyServer {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if state.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, state) = (stream.unwrap(), Arc::clone(&state));
                std::thread::spawn(move || state.answer(stream));
            }
        });
        server
    }

    /// Sets the response to requests for a path.
    pub(super) fn serve(&self, path: &str, served: Served) {
        self.state.served.lock().unwrap().insert(path.to_owned(), served);
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn received(&self) -> Received {
        self.state.received.lock().unwrap().clone()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    /// Answers a request. A client that has closed its connection is not a failure.
    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let Some(Ok(first)) = lines.next() else { return };
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let served = self.served.lock().unwrap().get(&path).cloned();
        let head = |status: &str, header: &str, length: usize| {
            format!(
                "HTTP/1.1 {status}\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n"
            )
        };
        let kind = "content-type: application/json\r\n";
        let text = match &served {
            None => head("404 Not Found", "", 0),
            Some(Served::Status(status, header)) => head(status, header, 0),
            Some(Served::Document(text)) => head("200 OK", kind, text.len()) + text,
            Some(Served::Dated(text, date)) => {
                let date = format!("date: {date}\r\n{kind}");
                head("200 OK", &date, text.len()) + text
            }
            Some(Served::Drops) => head("200 OK", kind, 1_000),
            Some(Served::Silence) => String::new(),
        };
        let read_at = Instant::now();
        let _ = stream.write_all(text.as_bytes());
        self.received.lock().unwrap().push((path, read_at));
        match served {
            // Ends when the client closes the connection, which it must do instead of waiting for
            // the next byte for ever.
            Some(Served::Drops) => {
                while stream.write_all(b" ").is_ok() {
                    std::thread::sleep(std::time::Duration::from_millis(500));
                }
            }
            Some(Served::Silence) => while lines.next().is_some_and(|line| line.is_ok()) {},
            Some(Served::Document(_) | Served::Dated(..) | Served::Status(..)) | None => {}
        }
    }
}
