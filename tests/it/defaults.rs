//! `[defaults]` beside an endpoint's own keys.

use postrider_tests::{postrider, run};

/// Where to read a secret is one value, not a table to be joined: an endpoint's own `{ file }` and
/// the default's `{ env }` became `{ env, file }`, which nothing can read.
#[test]
fn an_endpoints_own_secret_replaces_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "Bearer own").unwrap();
    std::fs::write(
        dir.path().join("postrider.toml"),
        "[defaults]\nheaders = { Authorization = { env = 'TOKEN' } }\n\
         [[endpoints]]\nname = 'a'\nurl = 'https://example.com/'\n\
         headers = { Authorization = { file = 'token' } }\n",
    )
    .unwrap();
    let checked = run(postrider(dir.path(), ["check"]).env("TOKEN", "Bearer default"));
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

/// Header names do not differ by case, in no layer.
#[test]
fn an_endpoints_own_header_replaces_the_defaults_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("postrider.toml"),
        "[defaults]\nheaders = { Authorization = 'Bearer default' }\n\
         [[endpoints]]\nname = 'a'\nurl = 'https://example.com/'\n\
         headers = { authorization = 'Bearer own' }\n",
    )
    .unwrap();
    let checked = run(&mut postrider(dir.path(), ["check"]));
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
