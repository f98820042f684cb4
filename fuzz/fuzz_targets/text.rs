//! What people and strangers write: ids, type names, patterns, times, a configuration, signatures.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::config::{Config, Format};
use postrider::{EndpointId, EventId, Timestamp};

fuzz_target!(|text: &str| {
    // What is taken must print back to something that is taken again, and the same.
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<EndpointId>() {
        assert_eq!(id.to_string().parse::<EndpointId>().ok(), Some(id));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse::<Timestamp>().ok(), Some(time));
    }
    let _ = text.parse::<postrider::event::EventType>();
    let _ = text.parse::<postrider::route::Pattern>();
    for format in [Format::Toml, Format::Json] {
        let _ = Config::loader().text(format, text).environment(false).load();
    }
});
