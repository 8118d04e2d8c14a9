//! Tests of the event stream of dashboards. The clock is simulated and advances when all tasks
//! wait.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use analytics::event_stream::{Full, Hub, VIEWERS_MAX};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::runtime::Handle;

fn hub() -> Arc<Hub<u8>> {
    Hub::new(Handle::current(), |question| Bytes::from(format!("{{\"asked\":{question}}}")))
}

async fn event(
    stream: &mut (impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Unpin),
) -> String {
    String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn viewers_with_equal_queries_share_one_event_per_second() {
    let hub = hub();
    let (mut first, mut second) = (pin!(hub.watch(1).unwrap()), pin!(hub.watch(1).unwrap()));
    for number in 1..=3 {
        assert_eq!(event(&mut first).await, "event: metrics\ndata: {\"asked\":1}\n\n");
        assert_eq!(event(&mut second).await, "event: metrics\ndata: {\"asked\":1}\n\n");
        assert_eq!(hub.built(), number);
    }
    // A client that connects later does not wait for the next event. A client with another query
    // gets an event of its own.
    let mut third = pin!(hub.watch(1).unwrap());
    assert_eq!(event(&mut third).await, "event: metrics\ndata: {\"asked\":1}\n\n");
    assert_eq!(hub.built(), 3);
    let mut other = pin!(hub.watch(2).unwrap());
    assert_eq!(event(&mut other).await, "event: metrics\ndata: {\"asked\":2}\n\n");
    assert_eq!(hub.viewers(), 4);
}

#[tokio::test(start_paused = true)]
async fn without_viewers_no_event_is_computed() {
    let hub = hub();
    let mut stream = Box::pin(hub.watch(1).unwrap());
    event(&mut stream).await;
    drop(stream);
    assert_eq!(hub.viewers(), 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let built = hub.built();
    assert!(built <= 2, "{built} were made");
    let mut stream = Box::pin(hub.watch(1).unwrap());
    event(&mut stream).await;
    assert_eq!(hub.built(), built + 1);
}

#[tokio::test(start_paused = true)]
async fn a_viewer_beyond_the_limit_is_refused_until_another_leaves() {
    let hub = hub();
    let mut streams: Vec<_> = (0..VIEWERS_MAX).map(|_| hub.watch(1).unwrap()).collect();
    assert_eq!(hub.watch(2).err(), Some(Full));
    streams.pop();
    assert!(hub.watch(2).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_closed_ends_every_stream() {
    let hub = hub();
    let mut stream = pin!(hub.watch(1).unwrap());
    event(&mut stream).await;
    hub.close();
    assert!(stream.next().await.is_none());
    assert!(pin!(hub.watch(1).unwrap()).next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn proxies_see_keep_alives_while_an_event_takes_long() {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let hub = Hub::<u8>::new(Handle::current(), move |_| {
        wait.lock().unwrap().recv().unwrap();
        Bytes::new()
    });
    let mut stream = pin!(hub.watch(1).unwrap());
    let time = tokio::time::advance(Duration::from_secs(16));
    assert_eq!(tokio::join!(event(&mut stream), time).0, ": ping\n\n");
    go.send(()).unwrap();
    assert_eq!(event(&mut stream).await, "event: metrics\ndata: \n\n");
}

#[test]
fn after_a_panic_or_the_end_of_its_runtime_an_event_is_computed_again() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (own, another) = (runtime(), runtime());
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let hub = Hub::<u8>::new(another.handle().clone(), move |_| {
        let first = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        assert!(!first, "the first one fails");
        Bytes::from_static(b"well")
    });
    own.block_on(async {
        assert!(pin!(hub.watch(1).unwrap()).next().await.is_none());
        assert_eq!(event(&mut pin!(hub.watch(1).unwrap())).await, "event: metrics\ndata: well\n\n");
    });
}
