//! Tests of the response budget.

use actix_web::HttpResponse;
use actix_web::test::TestRequest;
use futures_util::FutureExt as _;
use futures_util::future::join;
use futures_util::task::noop_waker_ref;

use super::*;

const LARGE: usize = 32 << 20;

fn response(bytes: usize) -> ServiceResponse<BoxBody> {
    TestRequest::default().to_srv_response(HttpResponse::Ok().body(vec![0; bytes]))
}

/// Charges a response without waiting: if it fits, or even if it does not with `in_any_case`.
fn charge(
    budget: &Arc<ResponseBudget>,
    response: &ServiceResponse<BoxBody>,
    in_any_case: bool,
) -> Result<ResponseShare, Problem> {
    let charged = budget.charge(response, in_any_case, Instant::now).now_or_never();
    charged.expect("it does not wait").map(|share| share.expect("it is large"))
}

/// Charges a response and begins to send it.
fn send(budget: &Arc<ResponseBudget>, bytes: usize) -> BoxBody {
    let response = response(bytes);
    charge(budget, &response, false).unwrap().hold(response).into_body()
}

/// Makes all clients so fast that none counts as slow while a test runs.
fn speed_up_all(budget: &Arc<ResponseBudget>) {
    budget.state().responses.values_mut().for_each(|one| one.received = RATE_MIN * 1e6);
}

/// Takes the next part of a body, and returns true; false if the response was evicted, `None` at
/// the end of the body.
fn take(body: &mut BoxBody) -> Option<bool> {
    let polled = Pin::new(body).poll_next(&mut Context::from_waker(noop_waker_ref()));
    let Poll::Ready(part) = polled else { panic!("a part is ready") };
    part.map(|part| part.is_ok())
}

#[test]
fn a_response_is_charged_until_its_last_part_is_passed_on() {
    let budget = Arc::new(ResponseBudget::default());
    let mut body = send(&budget, 2 * PART_BYTES_MAX + 1);
    for held in [true, true, false] {
        assert_eq!(take(&mut body), Some(true));
        assert_eq!(budget.state().held > 0, held);
    }
    assert_eq!(take(&mut body), None);
    drop(send(&budget, LARGE));
    assert_eq!(budget.state().held, 0, "the client disconnected");
    let small = response(SMALL_BYTES_MAX);
    let small = budget.charge(&small, false, Instant::now);
    assert!(small.now_or_never().unwrap().unwrap().is_none());
}

#[test]
fn only_the_slowest_response_gives_way_and_a_read_without_memory_is_refused() {
    let budget = Arc::new(ResponseBudget::default());
    let fit = ResponseBudget::BYTES_MAX / LARGE;
    let mut sent: Vec<BoxBody> = (0..fit).map(|_| send(&budget, LARGE)).collect();
    speed_up_all(&budget);
    let refused = charge(&budget, &response(LARGE), false).unwrap_err();
    assert_eq!((refused.code(), refused.status().as_u16()), (Code::TSR005, 503));
    assert_eq!((budget.refused(), budget.evicted()), (1, 0));
    let slow_down = |number, received| {
        budget.state().responses.get_mut(&number).unwrap().received = received;
    };
    slow_down(2, RATE_MIN / 2.0);
    slow_down(1, 0.0);
    assert!(charge(&budget, &response(3 * LARGE), false).is_err());
    assert_eq!(budget.state().held, ResponseBudget::BYTES_MAX, "both slow are not enough");
    sent.push(send(&budget, LARGE));
    let taken: Vec<_> = sent.iter_mut().map(take).collect();
    let evicted = taken.iter().position(|part| *part == Some(false));
    assert_eq!((evicted, taken.len()), (Some(1), fit + 1), "{taken:?}");
    assert_eq!((budget.refused(), budget.evicted()), (2, 1), "each is counted once");
    assert_eq!(budget.state().held, ResponseBudget::BYTES_MAX);
    speed_up_all(&budget);
    // The row is stored: its response cannot be refused.
    let stored = charge(&budget, &response(LARGE), true).unwrap();
    assert_eq!(budget.state().held, ResponseBudget::BYTES_MAX + LARGE);
    assert_eq!((budget.refused(), budget.evicted()), (2, 1), "it neither waits nor evicts");
    drop((stored, sent));
    assert_eq!(budget.state().held, 0);
}

#[test]
fn a_response_waits_until_another_is_received_and_those_that_wait_are_limited() {
    let budget = Arc::new(ResponseBudget::default());
    let fit = ResponseBudget::BYTES_MAX / LARGE;
    let mut sent: Vec<BoxBody> = (1..fit).map(|_| send(&budget, LARGE)).collect();
    sent.push(send(&budget, LARGE / 2));
    speed_up_all(&budget);
    let (large, later) = (response(LARGE), response(LARGE / 4));
    let until = || Instant::now() + Duration::from_secs(60);
    let waiting = budget.charge(&large, false, until);
    let wait = async {
        let full = QueuedResponse::begin(&budget, ResponseBudget::WAITING_BYTES_MAX).err();
        assert_eq!(full.map(|problem| problem.code()), Some(Code::TSR005));
        let overtaken = budget.charge(&later, false, Instant::now).await;
        assert!(overtaken.is_err(), "it fits, but another one waits longer");
        sent.pop();
    };
    let charged = actix_web::rt::System::new().block_on(join(waiting, wait)).0;
    assert!(charged.unwrap().is_some());
    assert!(budget.state().waiting.is_empty());
}
