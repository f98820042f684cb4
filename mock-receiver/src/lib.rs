//! A webhook receiver that captures requests byte for byte, answers as scripted, and lets a test
//! wait and assert.
//!
//! ```
//! use mock_receiver::{Receiver, Response};
//! use std::{io::{Read, Write}, net::TcpStream, time::Duration};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let receiver = Receiver::start().await?;            // Free ports; all ends when it is dropped.
//! receiver.on("orders").respond([503, 200]);          // Fails once; the last repeats.
//!
//! // The sender under test posts to `receiver.url("orders")`; here it is a raw socket.
//! for _ in 0..2 {
//!     let mut sender = TcpStream::connect(receiver.addr())?;
//!     sender.write_all(b"POST /orders HTTP/1.1\r\nHost: a\r\nWebhook-Id: m1\r\n\
//!         Content-Length: 17\r\nConnection: close\r\n\r\n{\"event\":\"match\"}")?;
//!     sender.read_to_end(&mut Vec::new())?;
//! }
//!
//! let seen = receiver.wait("orders").count(2).within(Duration::from_secs(5)).await?;
//! assert_eq!(seen[0].status, Some(503));
//! assert_eq!(seen[1].header("webhook-id"), Some("m1"));
//! assert_eq!(seen[1].body, seen[0].body);
//! receiver.assert_exactly_once_by("orders", "webhook-id");
//! # Ok(())
//! # }
//! ```
//!
//! The parts: a [`Receiver`] has any number of *bins*, made on first use, one per first segment
//! of the path. Each request is a [`Capture`]. A bin answers 200 `{"received":true}` unless
//! [`Receiver::on`] says otherwise ([`Response`], [`Answers`]). [`Receiver::wait`] waits for
//! requests, of a kind where a [`Matcher`] says so, and explains what came instead.
//!
//! The same over HTTP and as a program: see the README. This crate knows nothing of the sender:
//! it depends on no other part of Postrider, so that it can disagree.

mod admin;
mod assert;
mod builder;
mod capture;
mod deliveries;
mod diff;
mod error;
mod filter;
mod forward;
mod har;
mod matcher;
mod net;
mod receiver;
mod report;
mod script;
mod store;
mod tls;
mod token;
mod verify;
mod view;
mod wait;

pub use assert::Check;
pub use builder::Builder;
pub use capture::{Capture, Closer, Headers, Problem, Record, Timeline};
pub use deliveries::{Deliveries, Delivery, Key};
pub use diff::{Diff, Difference, diff};
pub use error::{Error, ErrorKind};
pub use forward::Forwarded;
pub use matcher::Matcher;
pub use receiver::{On, Receiver};
pub use script::{Answers, Delay, Fault, Response, Rule, Scenario};
pub use tls::TlsFault;
pub use verify::{Cause, CauseKind, Explanation, Scheme, Signature, Verdict};
pub use wait::Wait;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme; // Its example is compiled with the tests.
