//! What the documents show is true: their configurations are valid. (Their Rust is compiled as the
//! doc tests of the examples.)

use std::path::Path;

use postrider::config::{Config, Format};

fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn configurations_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = blocks(&text, "toml");
    assert!(!blocks.is_empty(), "README.md shows a configuration");
    for block in blocks {
        let variables = [
            ("MY_APP_TOKEN", "Bearer t"),
            ("MY_APP_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ];
        let config = Config::loader()
            .registry(&postrider_sinks::registry())
            .stores(&postrider_stores::registry())
            .text(Format::Toml, block)
            .environment_from(variables)
            .load();
        if let Err(errors) = config {
            panic!("{errors}\n{block}");
        }
    }
}
