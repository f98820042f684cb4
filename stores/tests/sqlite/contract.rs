//! The contract of every store.

use std::sync::atomic::{AtomicUsize, Ordering};

use postrider_stores::sqlite::SqliteStore;

#[tokio::test(flavor = "multi_thread")]
async fn contract() {
    let folder = tempfile::tempdir().unwrap();
    let opened = AtomicUsize::new(0);
    postrider::testing::store::contract(|| {
        let number = opened.fetch_add(1, Ordering::Relaxed);
        let path = folder.path().join(format!("{number}.db"));
        async { SqliteStore::open(path).await.unwrap() }
    })
    .await;
}
