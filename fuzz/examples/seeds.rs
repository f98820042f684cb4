//! Makes the seed corpus from real logs: `seeds FOLDER`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postrider::store::Store;
use postrider::{EndpointId, Timestamp};
use postrider_fuzz::{Memory, SEALED, accept, block_on, open, use_store};

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("usage: seeds FOLDER"));
    let endpoints = ["a", "b", "c"].map(|id| id.parse::<EndpointId>().unwrap());
    let mut now = Timestamp::from_millis(1_764_513_045_123);
    let disk = Memory::default();
    for (round, events) in [1, 3, 12, 60, 150].into_iter().enumerate() {
        block_on(async {
            let store = Arc::new(open(&disk).unwrap());
            for event in 0..events {
                now = now.after(Duration::from_millis(700));
                accept(&store, &format!("seed-{round}-{event}"), &endpoints[event % 3], now).await;
            }
            if round % 2 == 0 {
                store.close().await.unwrap();
            }
        });
        use_store(&disk);
        for (name, flags) in [("plain", 0), ("sealed", SEALED)] {
            let into = folder.join("recovery");
            fs::create_dir_all(&into).unwrap();
            fs::write(into.join(format!("{name}-{round}")), disk.pack(flags)).unwrap();
        }
    }
    // The pieces of the last log, one by one.
    let into = folder.join("record");
    fs::create_dir_all(&into).unwrap();
    let packed = disk.pack(0);
    for (at, piece) in packed.chunks(700).take(12).enumerate() {
        fs::write(into.join(format!("piece-{at}")), piece).unwrap();
    }
    let into = folder.join("text");
    fs::create_dir_all(&into).unwrap();
    let texts = [
        "match",
        "model.**",
        "2025-11-30T14:30:45.123Z",
        "019ad52c-5a83-7eae-9ca9-e60a864189e5",
        "[bus]\ndata_dir = 'data'\n[[endpoints]]\nname = 'a'\nurl = 'https://example.com/'\n",
        "{\"endpoints\":[{\"id\":\"a\",\"name\":\"a\",\"url\":\"https://example.com/\"}]}",
    ];
    for (at, text) in texts.iter().enumerate() {
        fs::write(into.join(format!("text-{at}")), text).unwrap();
    }
}
