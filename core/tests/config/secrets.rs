//! No secret is shown, whatever is wrong and however it is printed.

use postrider::config::{Config, Format};

use crate::sinks::{registry, stores};

const CANARY: &str = "canary-7f3a91";

/// Loads and returns everything that can be printed about it.
fn printed(format: Format, text: &str, variables: &[(&str, &str)]) -> String {
    let loader = Config::loader().registry(&registry()).stores(&stores()).text(format, text);
    match loader.environment_from(variables.iter().copied()).load() {
        Ok(config) => format!("OK {config:?} {config:#?} {:?}", config.document),
        Err(errors) => {
            let each: Vec<String> = errors.iter().map(|e| format!("{e} {e:?} {e:#?}")).collect();
            let wrapped = postrider::Error::from(errors.clone());
            format!("{errors} {errors:?} {errors:#?} {each:?} {wrapped:?} {}", wrapped.chain())
        }
    }
}

fn check(is_ok: bool, format: Format, text: &str, variables: &[(&str, &str)]) {
    let text = text.replace("CANARY", CANARY);
    let variables: Vec<(&str, String)> =
        variables.iter().map(|(name, text)| (*name, text.replace("CANARY", CANARY))).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(n, t)| (*n, &**t)).collect();
    let printed = printed(format, &text, &variables);
    assert_eq!(printed.starts_with("OK"), is_ok, "{text} {variables:?}\n{printed}");
    assert!(!printed.contains(CANARY), "{text} {variables:?}\n{printed}");
}

#[test]
fn canary_is_never_printed() {
    let endpoint = "[[endpoints]]\nname = 'a'\nurl = 'https://a.example'\n";
    let good = |keys: &str| check(true, Format::Toml, &format!("{endpoint}{keys}"), &[]);
    let bad = |keys: &str| check(false, Format::Toml, &format!("{endpoint}{keys}"), &[]);
    good("headers = { Authorization = 'CANARY' }\nsecrets = ['CANARY']");
    good("[[server.tokens]]\nname = 'a'\ntoken = 'CANARY'\nscopes = ['read']");
    good("[bus]\nstore = { type = 'shelf', plan = 'x', key = 'CANARY' }");
    bad("headers = { Authorization = ['CANARY'] }");
    bad("headers = { Authorization = { env = 'CANARY' } }");
    bad("headers = { Authorization = { value = 'CANARY' } }");
    bad("headers = { Authorization = { env = 'X', file = 'CANARY' } }");
    bad("headers = 'CANARY'");
    bad("headers = ['CANARY']");
    bad("headers = [{ a = 'CANARY' }]");
    bad("hedaers = { Authorization = 'CANARY' }");
    bad("secret = 'CANARY'");
    bad("secrets = 'CANARY'");
    bad("secrets = { a = 'CANARY' }");
    bad("secrets = [['CANARY'], 'CANARY', 7]");
    bad("events = { a = 'CANARY' }");
    bad("timeout = ['CANARY']");
    bad("retry = 'CANARY'");
    bad("format = ['CANARY']");
    bad("events = [");
    bad("secrets = ['CANARY'");
    bad("secrets = ['CANARY'] x");
    bad("secrets = CANARY");
    bad("secrets = ['CANARY']\nsecrets = ['CANARY']");
    bad("[[endpoints]]\nname = 'b'\nurl = 'ftp://user:CANARY@a.example/?x=CANARY'");
    bad("[[endpoints]]\nname = 'b'\nurl = ['https://user:CANARY@a.example/']");
    bad("[[endpoints]]\nsink = 'https://user:CANARY@a.example/'");
    bad("[[server.tokens]]\nname = 'a'\ntoken = ['CANARY']\nscopes = ['raed']");
    bad("[server]\ntokens = 'CANARY'");
    bad("[server]\ntokens = ['CANARY']");
    bad("[server]\ntoken = 'CANARY'");
    bad("[server]\nlisten = 'me:CANARY@127.0.0.1:80'");
    bad("[bus]\nstore = 'postgres://me:CANARY@db'");
    bad("[bus]\nstore = { type = 'nats', url = 'nats://me:CANARY@db', password = 'CANARY' }");
    bad("[bus]\nstore = { type = 'shelf', plan = 'x', key = ['CANARY'] }");
    bad("[bus]\nstore = { type = 'shelf', plan = 'x', kye = 'CANARY' }");
    bad("[defaults]\nsecrets = 'CANARY'\nheaders = { a = { x = 'CANARY' } }");

    let json = |text: &str| check(false, Format::Json, text, &[]);
    json(
        r#"{"endpoints": [{"url": "https://a.example", "headers": {"a": "CANARY", "a": "CANARY"}}]}"#,
    );
    json(r#"{"endpoints": [{"url": "https://a.example", "headers": {"a": "CANARY"#);
    json(r#"{"endpoints": [{"url": "https://a.example", "headers": {"a": CANARY}}]}"#);
    json(r#"{"endpoints": "CANARY"}"#);
    json(r#""CANARY""#);

    let variable = |name: &str, text: &str| check(false, Format::Toml, endpoint, &[(name, text)]);
    variable("POSTRIDER_ENDPOINTS", "[{\"headers\": {\"a\": \"CANARY\"");
    variable("POSTRIDER_ENDPOINTS", "CANARY");
    variable("POSTRIDER_ENDPOINTS__0__HEADERS", "CANARY");
    variable("POSTRIDER_ENDPOINTS__0__SECRETS", "CANARY");
    variable("POSTRIDER_ENDPOINTS__0__SECRET", "CANARY");
    variable("POSTRIDER_SERVER__TOKENS__0", "CANARY");
    variable("POSTRIDER_SERVER__TOKENS__0__TOKEN", "CANARY");
    variable("POSTRIDER_SERVER__TOKN", "CANARY");
    variable("POSTRIDER_SERVER_TOKENS", "CANARY");
    check(
        true,
        Format::Toml,
        endpoint,
        &[("POSTRIDER_ENDPOINTS__0__HEADERS__AUTHORIZATION", "CANARY")],
    );
}

#[test]
fn variables_hold_secrets_as_they_are() {
    let check = |text: &str| {
        let config = crate::load(
            Format::Toml,
            "server.tokens = [{ name = 'a', scopes = ['read'] }]",
            &[("POSTRIDER_SERVER__TOKENS__0__TOKEN", text)],
        );
        assert_eq!(config.unwrap().server.tokens[0].token.expose(), text);
    };
    check("0123");
    check("true");
    check("[1, 2]");
    check("{\"a\": 1}");
    check("\"quoted\"");
    check(" spaces ");
}

/// Variables of our prefix that secrets refer to set no keys, however they are called.
#[test]
fn references_to_variables_of_our_prefix() {
    for name in ["POSTRIDER_TOKEN", "POSTRIDER_SERVERS", "POSTRIDER_SHOP__TOKEN"] {
        let text = format!(
            "server.tokens = [{{ name = 'a', scopes = ['read'], token = {{ env = '{name}' }} }}]"
        );
        let config = crate::load(Format::Toml, &text, &[(name, "text")]);
        assert_eq!(config.unwrap().server.tokens[0].token.expose(), "text", "{name}");
    }
}

#[test]
fn references_in_variables() {
    let config = crate::load(
        Format::Toml,
        "",
        &[
            (
                "POSTRIDER_SERVER__TOKENS",
                r#"[{"name": "a", "token": {"env": "T"}, "scopes": ["read"]}]"#,
            ),
            ("T", "text"),
        ],
    );
    assert_eq!(config.unwrap().server.tokens[0].token.expose(), "text");
}
