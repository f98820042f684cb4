//! Order over HTTP: a receiver that fails in every way sees each key's events in the order of
//! acceptance, with sixteen calls at once.

use mock_receiver::{Capture, Fault, Receiver, Response, Rule, Scenario};
use postrider::NewEvent;
use postrider_tests::{DEADLINE, Taken, bus};

const KEYS: usize = 50;

fn events() -> usize {
    let is_long = std::env::var("POSTRIDER_TEST_LONG").as_deref() == Ok("1");
    if is_long { 100_000 } else { 3_000 }
}

/// Events that the receiver took over first after a later one of their key, and how many it took over
/// in all. What it answered 500 or reset it did not take over.
fn inversions(captures: &[Capture]) -> (usize, usize) {
    let mut taken = Taken::default();
    for capture in captures.iter().filter(|capture| capture.status == Some(200)) {
        let text = capture.text().unwrap();
        let number: usize =
            text.rsplit_once(r#""n":"#).unwrap().1.trim_end_matches('}').parse().unwrap();
        taken.take(number % KEYS, number);
    }
    (taken.late(), taken.count())
}

async fn deliver(order: &str) -> (usize, usize) {
    let count = events();
    let captures = count * 3;
    let receiver =
        Receiver::builder().captures_max(captures).bytes_max(1 << 30).start().await.unwrap();
    let bad = |fault| Response::status(200).fault(fault);
    let answers = [
        (160, Response::status(200)),
        (20, Response::status(500)),
        (10, bad(Fault::Reset)),
        (8, bad(Fault::TruncateBody { after_bytes: 3 })),
        (2, bad(Fault::Hang)),
    ];
    receiver.on("app").scenario(Scenario::new().rule(Rule::any().weighted(answers)));
    let url = receiver.url("app");
    let retry = ["'50ms'"; 60].join(", ");
    let endpoint = format!(
        "[[endpoints]]\nname = 'app'\nurl = '{url}'\ntimeout = '500ms'\norder = '{order}'\n\
         concurrency = 16\nbreaker = false\nretry = {{ schedule = [{retry}] }}\n"
    );
    let bus = bus(&endpoint).await;
    for batch in (0..count).collect::<Vec<_>>().chunks(500) {
        let made = batch.iter().map(|number| {
            let event = NewEvent::raw("match", format!(r#"{{"n":{number}}}"#)).unwrap();
            event.key(format!("k{}", number % KEYS))
        });
        bus.publish_all(made).await.unwrap();
    }
    let patience = DEADLINE * (3 + count as u32 / 1_000);
    assert!(bus.flush(patience).await.unwrap().is_empty());
    inversions(&receiver.requests("app"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_keeps_its_order_whatever_the_receiver_does() {
    assert_eq!(deliver("key").await, (0, events()));
}

/// The same without an order, so that the test above is known to be able to fail.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_order_later_events_pass_failed_ones() {
    let (inverted, arrived) = deliver("none").await;
    assert_eq!(arrived, events());
    assert!(inverted > 0);
}
