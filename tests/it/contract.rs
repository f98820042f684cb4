//! Every built-in sink passes the public contract suite, as a third party's would.

use std::sync::Arc;

use mock_receiver::Receiver;
use postrider::sink::{CheckContext, Sink};
use postrider::testing::sink::contract;
use postrider_tests::{LOCAL, config};

/// The sink of the one endpoint in `toml`.
fn sink(toml: &str) -> Arc<dyn Sink> {
    let config = config(&format!("[[endpoints]]\nname = 'contract'\n{toml}\n{LOCAL}"));
    let endpoint = &config.endpoints[0];
    endpoint.sink.build(&CheckContext::new(&endpoint.id, &endpoint.name, &config.network)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http() {
    let receiver = Receiver::start().await.unwrap();
    contract(async || sink(&format!("url = '{}'", receiver.url("app")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file() {
    let dir = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    contract(async || {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{number}.ndjson"));
        sink(&format!("sink = 'file'\npath = '{}'", path.display()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout() {
    contract(async || sink("sink = 'stdout'")).await;
}
