//! Tests of connections that are cut, half open, slow and lossy, in front of a server that echoes
//! its input.

use std::time::Instant;

use tokio::time::timeout;

use super::*;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which something that must not happen is assumed not to happen.
const SILENCE: Duration = Duration::from_millis(200);

/// Starts a server that responds to every line with the given bytes, and counts the lines.
async fn server(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut line = [0; 5];
                while client.read_exact(&mut line).await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                    client.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, heard)
}

async fn client(proxy: &Proxy) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
}

/// Sends a line and returns the response, which is empty if the connection is closed.
async fn asked(client: &mut TcpStream) -> Vec<u8> {
    let mut answer = vec![0; 64];
    if client.write_all(b"hello").await.is_err() {
        return Vec::new();
    }
    let read = timeout(PATIENCE, client.read(&mut answer)).await.unwrap();
    answer.truncate(read.unwrap_or_default());
    answer
}

#[tokio::test]
async fn an_open_way_passes_all_and_a_cut_one_is_refused_until_it_is_mended() {
    let (address, _) = server(b"world").await;
    let proxy = Proxy::open(address).await.unwrap();
    let mut before = client(&proxy).await;
    assert_eq!(asked(&mut before).await, b"world");
    for _ in 0..3 {
        proxy.set(ProxyState::Cut);
        assert_eq!(before.read(&mut [0; 8]).await.unwrap_or_default(), 0, "it ends");
        let refused = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.is_ok() {}
        };
        timeout(PATIENCE, refused).await.unwrap();
        proxy.set(ProxyState::Open);
        let again = async {
            loop {
                if let Ok(again) = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await {
                    return again;
                }
            }
        };
        before = timeout(PATIENCE, again).await.unwrap();
        assert_eq!(asked(&mut before).await, b"world");
    }
}

#[tokio::test]
async fn a_half_open_connection_discards_bytes_and_is_not_used_again() {
    let (address, heard) = server(b"world").await;
    let proxy = Proxy::open(address).await.unwrap();
    let mut before = client(&proxy).await;
    assert_eq!(asked(&mut before).await, b"world");
    proxy.set(ProxyState::HalfOpen);
    let mut during = client(&proxy).await;
    for client in [&mut before, &mut during] {
        client.write_all(b"hello").await.unwrap();
        assert!(timeout(SILENCE, client.read(&mut [0; 8])).await.is_err(), "nothing comes");
    }
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    proxy.set(ProxyState::Open);
    assert_eq!(timeout(PATIENCE, before.read(&mut [0; 8])).await.unwrap().unwrap_or_default(), 0);
    assert_eq!(asked(&mut client(&proxy).await).await, b"world");
}

#[tokio::test]
async fn a_slow_way_takes_its_time_each_way() {
    let (address, _) = server(b"world").await;
    let proxy = Proxy::open(address).await.unwrap();
    proxy.set(ProxyState::Slow(Duration::from_millis(60)));
    let mut slow = client(&proxy).await;
    let began = Instant::now();
    assert_eq!(asked(&mut slow).await, b"world");
    assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    proxy.set(ProxyState::Open);
    assert_eq!(asked(&mut slow).await, b"world");
}

#[tokio::test]
async fn the_answer_to_a_write_is_lost_and_the_write_is_not() {
    // The server sends a greeting and the response to a stored write at once.
    let (address, heard) = server(b"R\0\0\0\x08\0\0\0\0C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I").await;
    let proxy = Proxy::open(address).await.unwrap();
    assert_eq!(asked(&mut client(&proxy).await).await.len(), 31);
    proxy.lose(2);
    for _ in 0..2 {
        assert_eq!(asked(&mut client(&proxy).await).await, b"", "no answer");
    }
    assert_eq!(proxy.left_to_lose(), 0);
    assert_eq!(heard.load(Ordering::SeqCst), 3, "and all were heard");
    assert_eq!(asked(&mut client(&proxy).await).await.len(), 31);
}

#[tokio::test]
async fn only_answers_to_writes_are_lost() {
    let (address, _) = server(b"R\0\0\0\x08\0\0\0\0C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I").await;
    let proxy = Proxy::open(address).await.unwrap();
    proxy.lose(1);
    assert!(!asked(&mut client(&proxy).await).await.is_empty());
    assert_eq!(proxy.left_to_lose(), 1);
}
