//! Raw sockets, and calls of the admin API over them.

use std::{net::SocketAddr, time::Duration};

use mock_receiver::Receiver;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// For what should take no time at all.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Sends the bytes and reads until the other side closes.
pub(crate) async fn raw(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    timeout(DEADLINE, async {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        stream.write_all(bytes.as_ref()).await.expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .expect("answered and closed within the deadline")
}

/// Reads one answer that has a content-length, and leaves the connection open.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> String {
    timeout(DEADLINE, async {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("more of the head"));
        }
        let head = String::from_utf8(answer).expect("text");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        stream.read_exact(&mut body).await.expect("the body");
        head + &String::from_utf8(body).expect("text")
    })
    .await
    .expect("an answer within the deadline")
}

/// A POST of that body, on a connection of its own.
pub(crate) async fn post(receiver: &Receiver, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\
        {headers}\r\n{body}"
    );
    raw(receiver.addr(), request).await
}

/// An answer of the admin API.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON document")
    }

    pub(crate) fn detail(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let document = self.json();
        assert_eq!(document["status"], self.status);
        document["detail"].as_str().expect("a detail").to_owned()
    }
}

/// Calls the admin API as its users do.
pub(crate) async fn call(receiver: &Receiver, method: &str, path: &str, body: &str) -> Answer {
    let host = receiver.admin_url().replace("http://", "");
    let authorization = format!("Authorization: Bearer {}\r\n", receiver.token());
    call_as(receiver, method, path, body, &host, &authorization).await
}

/// The same with this Host and these further header lines.
pub(crate) async fn call_as(
    receiver: &Receiver,
    method: &str,
    path: &str,
    body: &str,
    host: &str,
    headers: &str,
) -> Answer {
    let addr: SocketAddr = receiver.admin_url().replace("http://", "").parse().expect("an address");
    let length = body.len();
    let request = format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
        Content-Length: {length}\r\n{headers}\r\n{body}"
    );
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut bytes = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await;
    read.expect("answered within the deadline").expect("reads");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    let status = head[9..12].parse().expect("a status");
    Answer { status, head, body: bytes[end..].to_vec() }
}
