//! What a configuration may say, and that nothing of it leaks.

use postrider::config::{Config, Format as Text, NetworkPolicy, Secret};
use postrider::delivery::Cause;
use postrider::sink::{CheckContext, Problem, SinkFactory as _};
use postrider_sinks::http::{Format, HttpFactory, HttpSettings, HttpSink};
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::{endpoint, refused, settings, sink};

const URL: &str = "https://hooks.example/in";

fn problems(settings: &HttpSettings) -> Vec<Problem> {
    let (id, public) = (endpoint(), NetworkPolicy::public_only());
    HttpFactory.check(settings, &CheckContext::new(&id, "orders", &public))
}

fn with_headers(pairs: &[(&str, &str)]) -> HttpSettings {
    let mut settings = settings(URL);
    for (name, value) in pairs {
        settings.headers.insert((*name).to_owned(), Secret::new(*value));
    }
    settings
}

#[test]
fn defaults() {
    let read: HttpSettings = serde_json::from_value(json!({ "url": URL })).unwrap();
    let new = HttpSettings::new(URL);
    assert_eq!(format!("{read:?}"), format!("{new:?}"));
    assert_eq!(read.format, Format::Guide);
    assert_eq!(read.source, "postrider");
    assert_eq!(read.connect_timeout.to_string(), "5s");
    assert_eq!(read.response_bytes_max.to_string(), "64KiB");
    assert_eq!(read.connections_idle_max, 64);
    assert_eq!(problems(&read), []);
}

#[test]
fn names_of_formats_and_unknown_keys() {
    for (name, format) in [
        ("guide", Format::Guide),
        ("standard", Format::Standard),
        ("cloudevents", Format::CloudEvents),
        ("cloudevents-binary", Format::CloudEventsBinary),
        ("raw", Format::Raw),
    ] {
        let read = json!({ "url": URL, "format": name });
        assert_eq!(serde_json::from_value::<HttpSettings>(read).unwrap().format, format);
    }
    for wrong in
        [json!({ "url": URL, "format": "xml" }), json!({ "url": URL, "retries": 3 }), json!({})]
    {
        assert!(serde_json::from_value::<HttpSettings>(wrong.clone()).is_err(), "{wrong}");
    }
}

/// As they are written in a file, and what is said of a wrong one.
#[test]
fn permanent_statuses() {
    let load = |permanent: &str| {
        let text = format!("[[endpoints]]\nname = 'app'\nurl = '{URL}'\npermanent = {permanent}\n");
        let registry = postrider_sinks::registry();
        let loader = Config::loader().registry(&registry).text(Text::Toml, &text);
        loader.environment(false).load().map(drop).map_err(|errors| errors.to_string())
    };
    for right in ["[]", "[400]", "['4xx', 503]", "[300, 599, '422', '3xx', '5xx']"] {
        assert_eq!(load(right), Ok(()), "{right}");
    }
    for wrong in ["[200]", "[600]", "['2xx']", "['4XX']", "[true]"] {
        let told = load(wrong).unwrap_err();
        assert!(told.contains("permanent") && told.contains("300 to 599"), "{wrong}: {told}");
    }
    let told = load(&format!("[{}]", "400, ".repeat(65))).unwrap_err();
    assert!(told.contains("permanent") && told.contains("at most 64"), "{told}");
}

#[test]
fn schema_knows_every_key() {
    let mut generator = schemars::SchemaGenerator::default();
    let registry = postrider_sinks::registry();
    let schema = registry.schema("http", &mut generator).unwrap();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap();
    let mut keys: Vec<_> = properties.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "attribute_headers",
            "auth",
            "batch",
            "compress",
            "connect_timeout",
            "connections_idle_max",
            "format",
            "headers",
            "network",
            "permanent",
            "response_bytes_max",
            "secrets",
            "signature",
            "source",
            "tls",
            "transform",
            "url"
        ]
    );
    for (key, property) in properties {
        assert!(property.get("description").is_some(), "{key} is not described");
    }
}

#[test]
fn every_problem_at_once() {
    let mut settings = with_headers(&[("Host", "x"), ("X-Ok", "fine"), ("bad name", "x")]);
    settings.url = "ftp://hooks.example/".to_owned();
    settings.secrets = vec![Secret::new("hunter2"), Secret::new("whsec_c2hvcnQ=")];
    settings.connect_timeout.0 = std::time::Duration::ZERO;
    settings.permanent = vec![serde_json::from_str("400").unwrap(); 65];
    settings.response_bytes_max.0 = 1 << 30;
    settings.connections_idle_max = 5000;
    settings.source = "my app".to_owned();
    let found = problems(&settings);
    let keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "url",
            "headers.Host",
            "headers.bad name",
            "secrets.0",
            "secrets.1",
            "connect_timeout",
            "permanent",
            "response_bytes_max",
            "connections_idle_max",
            "source",
        ]
    );
    let texts = format!("{found:?}");
    assert!(!texts.contains("hunter2") && !texts.contains("c2hvcnQ"), "{texts}");
}

#[test]
fn headers_that_are_not_the_endpoints_to_set() {
    for name in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Webhook-Id",
        "webhook-timestamp",
        "WEBHOOK-SIGNATURE",
        "webhook-anything",
    ] {
        let found = problems(&with_headers(&[(name, "x")]));
        let [problem] = &found[..] else { panic!("{name}: {found:?}") };
        assert_eq!(problem.key, format!("headers.{name}"));
        assert!(!problem.remedy.is_empty(), "{problem:?}");
    }
    for name in ["User-Agent", "Content-Type", "Authorization", "X-Webhook-Secret", "ce-source"] {
        assert_eq!(problems(&with_headers(&[(name, "x")])), [], "{name}");
    }
}

#[test]
fn headers_that_depend_on_other_keys() {
    let check = |change: &dyn Fn(&mut HttpSettings), name: &str| {
        let mut settings = with_headers(&[(name, "x")]);
        assert_eq!(problems(&settings), []);
        change(&mut settings);
        let found = problems(&settings);
        assert!(found.len() == 1 && found[0].key == format!("headers.{name}"), "{found:?}");
    };
    check(&|settings| settings.format = Format::CloudEvents, "content-type");
    check(&|settings| settings.format = Format::CloudEventsBinary, "ce-source");
    check(&|settings| settings.url = "https://u:p@hooks.example/".to_owned(), "authorization");
}

#[test]
fn headers_have_bounds_and_clean_values() {
    let found = problems(&with_headers(&[("X-A", "x"), ("x-a", "y")]));
    assert!(found.len() == 1 && found[0].message.contains("given twice"), "{found:?}");
    for value in ["hun\nter2", "line\r\nx-injected: 1", "nul\0", "\u{fc}mlaut"] {
        let found = problems(&with_headers(&[("X-A", value)]));
        assert!(found.len() == 1 && found[0].key == "headers.X-A", "{value:?}: {found:?}");
        assert!(!format!("{found:?}").contains("ter2"), "{found:?}");
    }
    let mut settings = settings(URL);
    for index in 0..64 {
        settings.headers.insert(format!("x-{index}"), Secret::new("v"));
    }
    assert_eq!(problems(&settings), []);
    settings.headers.insert("x-64".to_owned(), Secret::new("v"));
    assert!(problems(&settings)[0].message.contains("at most 64"), "{:?}", problems(&settings));
    let found = problems(&with_headers(&[("x-a", &"v".repeat((16 << 10) - 2))]));
    assert!(found[0].message.contains("at most 16384 bytes"), "{found:?}");
    assert_eq!(problems(&with_headers(&[("x-a", &"v".repeat((16 << 10) - 3))])), []);
}

#[test]
fn secrets_must_be_able_to_sign() {
    let mut settings = settings(URL);
    settings.secrets = vec![Secret::new("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")];
    assert!(problems(&settings)[0].message.contains("cannot sign"), "{:?}", problems(&settings));
    settings.secrets = vec![Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"); 11];
    assert!(problems(&settings)[0].message.contains("at most 10"), "{:?}", problems(&settings));
}

/// Neither Debug nor Display nor any message shows what is secret: header values, signing secrets,
/// the URL's credentials and query.
#[tokio::test]
async fn nothing_secret_is_shown() {
    let peer = Peer::answering_once("").await;
    let mut settings = with_headers(&[("authorization-token", "hunter2")]);
    settings.url = format!("http://hunter2:hunter2@{}/in?key=hunter2#hunter2", peer.address);
    settings.secrets = vec![Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let shown = format!("http://••••@{}/in?••••", peer.address);
    assert_eq!(HttpFactory.target(&settings), shown);
    let sink = sink(&settings);
    assert_eq!(format!("{sink:?}"), format!("HttpSink({shown})"));
    let nack = refused(&sink).await;
    assert_eq!(nack.cause(), Cause::Closed);
    assert_eq!(peer.seen().len(), 1);
    let texts = format!("{settings:?} {settings:#?} {sink:?} {nack:?}");
    assert!(!texts.contains("hunter2") && !texts.contains("MfKQ9"), "{texts}");

    // Also where the URL is wrong.
    for url in ["http://u:hunter2@exa mple/", "hunter2", "gopher://hunter2@x/?hunter2"] {
        settings.url = url.to_owned();
        let (id, public) = (endpoint(), NetworkPolicy::public_only());
        let context = CheckContext::new(&id, "orders", &public);
        let error = HttpSink::new(&settings, &context).unwrap_err();
        let texts = format!(
            "{:?} {settings:?} {} {error} {error:?}",
            problems(&settings),
            HttpFactory.target(&settings)
        );
        assert!(!texts.contains("hunter2"), "{texts}");
    }
}

#[test]
fn only_http_urls_of_bounded_length() {
    let mut settings = settings(&format!("https://hooks.example/{}", "a".repeat(8 << 10)));
    assert!(problems(&settings)[0].message.contains("at most 8192"), "{:?}", problems(&settings));
    settings.url.truncate(8 << 10);
    assert_eq!(problems(&settings), []);
}
