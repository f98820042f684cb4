//! A receiver written in Rust that lets only signed events in: hyper, with `VerifyLayer` in front of
//! the service. The layer fits axum's `Router::layer` as it stands.
//!
//! The program starts the receiver, publishes an event to it that is signed with its secret and one
//! that is signed with another, and shows what each was answered.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use postrider::config::{Config, Format};
use postrider::sign::VerifyLayer;
use postrider::{Bus, NewEvent};
use tokio::net::TcpListener;
use tower_layer::Layer as _;
use tower_service::Service;

/// What the application does with an event: all that comes here is from who has the secret.
#[derive(Clone)]
struct App;

impl Service<Request<Full<Bytes>>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        // An application drops what it has seen by this id.
        let id = request.headers()["webhook-id"].to_str().unwrap_or_default();
        ready(Ok(Response::new(Full::from(format!("took {id}\n")))))
    }
}

/// Serves [`App`] on a free port of this machine, for as long as the runtime lives.
async fn receiver(secret: &str) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let layer = VerifyLayer::new([secret.parse()?]).body_bytes_max(256 << 10);
    let service = TowerToHyperService::new(layer.layer(App));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            let connection = http.serve_connection(TokioIo::new(stream), service);
            // The layer sets no limit on the time that a body takes.
            tokio::spawn(tokio::time::timeout(Duration::from_mins(1), connection));
        }
    });
    Ok(address)
}

/// Publishes one event to an endpoint that signs with `secret`, once; returns what was answered.
async fn answer(address: SocketAddr, secret: &str) -> Result<String, Box<dyn std::error::Error>> {
    let config = Config::loader()
        .registry(&postrider_sinks::registry())
        .text(
            Format::Toml,
            format!(
                "[[endpoints]]\n\
                 url = 'http://{address}/hook'\n\
                 secrets = ['{secret}']\n\
                 permanent = ['4xx']  # Another try would be answered the same.\n\
                 [network]\n\
                 allow = ['127.0.0.0/8']  # The receiver stands on this machine.\n"
            ),
        )
        .load()?;
    let bus = Bus::open(config).await?;
    let receipt = bus.publish(NewEvent::raw("match", r#"{"confidence":0.87}"#)?).await?;
    bus.flush(Duration::from_secs(10)).await?;
    let event = bus.event(receipt.event()).await?.ok_or("the event is gone")?;
    bus.shutdown(Duration::from_secs(5)).await?;
    let attempt = event.deliveries.first().and_then(|delivery| delivery.attempts.first());
    let attempt = attempt.ok_or("there was no attempt")?;
    Ok(format!("{} {}", attempt.status.unwrap_or_default(), attempt.answer.trim_end()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ours = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let address = receiver(ours).await?;
    println!("signed with the receiver's secret: {}", answer(address, ours).await?);
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    println!("signed with another:               {}", answer(address, other).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_has_the_secret_is_let_in() {
        let (secret, public) = postrider::sign::key_pair([7; 32]);
        let address = receiver(&public).await.unwrap();
        let told = answer(address, &secret).await.unwrap();
        assert!(told.starts_with("200 took "), "{told}");
        let (stranger, _) = postrider::sign::key_pair([8; 32]);
        let told = answer(address, &stranger).await.unwrap();
        assert_eq!(told, "401 no signature fits the message and a known key");
    }
}
