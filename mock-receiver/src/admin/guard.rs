//! Who may use the admin API: the holder of the token, by a name that is ours.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    Request, StatusCode,
    header::{AUTHORIZATION, HOST},
    http::uri::Authority,
};

use super::Problem;
use crate::token;

/// Refuses a request with another site's name (DNS rebinding: a page whose name was made to
/// point here), then one without the token.
pub(super) fn check<B>(
    request: &Request<B>,
    local: SocketAddr,
    token: &str,
) -> Result<(), Problem> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_ours(host, local.ip())) {
        let detail = "the Host header must be localhost, a loopback address or the address that \
            is listened on";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let authorization = request.headers().get(AUTHORIZATION);
    if !authorization.is_some_and(|value| token::authorizes(value.as_bytes(), token)) {
        return Err(Problem::unauthorized());
    }
    Ok(())
}

fn is_ours(host: &str, local: IpAddr) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.is_loopback() || address == local.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_names_that_cannot_be_rebound() {
        let local = "192.0.2.7".parse().expect("an address");
        for (host, expect) in [
            ("localhost", true),
            ("LOCALHOST:4011", true),
            ("127.0.0.1:4011", true),
            ("127.8.9.1", true),
            ("[::1]:4011", true),
            ("192.0.2.7:4011", true),
            ("192.0.2.8", false),
            ("", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com:4011", false),
            ("user@localhost", false),
            ("example.com", false),
        ] {
            assert_eq!(is_ours(host, local), expect, "{host}");
        }
    }
}
