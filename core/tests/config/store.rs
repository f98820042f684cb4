//! `[bus.store]`: another store than the built-in ones.

use postrider::config::{Config, Format};
use postrider::{Bus, NewEvent};

use crate::load;
use crate::sinks::stores;

const SHELF: &str = "[bus]\nstore = { type = 'shelf', plan = 'plan.txt' }";

#[test]
fn is_read_from_every_layer() {
    let config = load(Format::Toml, SHELF, &[]).unwrap();
    let store = config.store.as_ref().unwrap();
    assert_eq!((store.name(), store.target()), ("shelf", "plan.txt up to 100".to_owned()));
    assert_eq!(config.warnings, [], "events are kept somewhere");

    let variables = [("POSTRIDER_BUS__STORE__EVENTS_MAX", "7")];
    let config = load(Format::Toml, SHELF, &variables).unwrap();
    assert_eq!(config.store.unwrap().target(), "plan.txt up to 7");

    let variables =
        [("POSTRIDER_BUS__STORE__TYPE", "shelf"), ("POSTRIDER_BUS__STORE__PLAN", "other.txt")];
    let config = load(Format::Toml, "", &variables).unwrap();
    assert_eq!(config.store.unwrap().target(), "other.txt up to 100");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.toml");
    std::fs::write(&path, SHELF).unwrap();
    let config = Config::loader().stores(&stores()).file(&path).environment(false).load().unwrap();
    let expect = format!("{} up to 100", folder.path().join("plan.txt").display());
    assert_eq!(config.store.unwrap().target(), expect, "a path starts at the file's folder");
}

#[tokio::test]
async fn is_what_the_bus_keeps_its_events_in() {
    let text = "[bus]\nstore = { type = 'shelf', plan = 'x', events_max = 3 }\n\
                [[endpoints]]\nname = 'printer'\nsink = 'print'\nenabled = false";
    let bus = Bus::open(load(Format::Toml, text, &[]).unwrap()).await.unwrap();
    for _ in 0..3 {
        bus.publish(NewEvent::raw("match", "{}").unwrap()).await.unwrap();
    }
    let full = bus.publish(NewEvent::raw("match", "{}").unwrap()).await.unwrap_err();
    assert!(full.is_full(), "{full:?}");
}
