//! Answers as HTTP/1 text, and the faults that are played on it.

use std::{
    io::{self, Write},
    time::{Duration, Instant, SystemTime},
};

use flate2::{Compression, Crc, FlushCompress, Status};
use tokio::time::sleep;

use super::{
    io::Wire,
    parse::Head,
    relay::{end_of_chunks, line},
    timeline::Late,
};
use crate::script::{Answer, Fault};

/// How much of a huge head or body is sent at once.
const PIECE: usize = 64 << 10;
/// A head and body up to this size go out in one write.
const JOINED_BYTES_MAX: usize = 64 << 10;

/// What becomes of the connection behind an answer.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// The next request.
    Keep,
    /// An orderly end that lets the sender read what was sent.
    Close,
    /// An end (FIN) at once.
    Cut,
    /// An end with a reset (RST).
    Reset,
    /// The sender has ended it.
    Sender,
}

/// Sends an answer with what goes wrong with it.
pub(super) async fn send(
    wire: &mut Wire,
    answer: Answer,
    request: &Head<'_>,
    late: &Late,
    accepted: Instant,
) -> io::Result<End> {
    let fault = answer.fault.clone();
    match fault {
        Some(Fault::Hang) => return wire.ended().await.map(|()| End::Sender),
        Some(Fault::Reset | Fault::RstStream { .. }) => return Ok(End::Reset),
        Some(Fault::Goaway { .. } | Fault::CloseIn { .. } | Fault::StopReading) => {
            return Ok(End::Cut);
        }
        _ => late.began(accepted),
    }
    let mut out = Out { wire, keep: request.keep_alive };
    match fault {
        None => out.plain(&answer, request).await?,
        Some(fault) => {
            out.keep &= matches!(
                fault,
                Fault::Interim { .. }
                    | Fault::DripHead { .. }
                    | Fault::DripBody { .. }
                    | Fault::HugeHead { .. }
                    | Fault::HugeBody { .. }
                    | Fault::Bomb { .. }
            );
            if let Some(end) = out.faulty(&answer, request, fault).await? {
                late.ended(accepted);
                return Ok(end);
            }
        }
    }
    late.ended(accepted);
    Ok(if out.keep { End::Keep } else { End::Close })
}

struct Out<'a> {
    wire: &'a mut Wire,
    keep: bool,
}

/// What the head says of the body.
enum Length {
    Bytes(i128),
    Chunked,
}

impl Out<'_> {
    async fn plain(&mut self, answer: &Answer, request: &Head<'_>) -> io::Result<()> {
        let length = Length::Bytes(answer.body.len() as i128);
        let body = body_of(answer, request);
        if let Some(relayed) = answer.relayed.as_ref().filter(|one| !one.trailers.is_empty())
            && request.version == "HTTP/1.1"
            && !body.is_empty()
        {
            // Trailers need chunks: all of the body is one.
            let mut head = self.head(answer, request, &Length::Chunked, &[]);
            let _ = write!(head, "{:x}\r\n", body.len()); // Writing to memory cannot fail.
            self.wire.send(&head).await?;
            self.pieces(body).await?;
            return self.wire.send(&end_of_chunks(true, &relayed.trailers)).await;
        }
        let mut head = self.head(answer, request, &length, &[]);
        if head.len() + body.len() <= JOINED_BYTES_MAX {
            head.extend_from_slice(body);
            return self.wire.send(&head).await;
        }
        self.wire.send(&head).await?;
        self.pieces(body).await
    }

    /// Piece by piece: the time that a sender has to take something is for each.
    async fn pieces(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.wire.send(piece).await?;
        }
        Ok(())
    }

    /// Status line and header lines with the empty line.
    fn head(
        &self,
        answer: &Answer,
        request: &Head<'_>,
        length: &Length,
        more: &[(&str, &str)],
    ) -> Vec<u8> {
        let version = if request.version == "HTTP/1.0" { "HTTP/1.0" } else { "HTTP/1.1" };
        let status = answer.status;
        let relayed = answer.relayed.as_deref();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = Vec::with_capacity(256 + answer.body.len().min(JOINED_BYTES_MAX));
        // Writing to memory cannot fail.
        let _ = write!(head, "{version} {} ", status.as_str());
        head.extend_from_slice(relayed.map_or(reason.as_bytes(), |relayed| &relayed.reason));
        head.extend_from_slice(b"\r\n");
        let mut told = false; // Whether the length stands among the lines already.
        for (name, value) in relayed.map_or(&[][..], |relayed| &relayed.lines) {
            let claims = name.eq_ignore_ascii_case("content-length");
            // It is of what another method, or an older copy, would have got.
            let as_told = request.method == "HEAD" || status.as_u16() == 304;
            let ours = match length {
                _ if !claims || as_told => None,
                Length::Bytes(bytes) => Some(bytes.to_string()),
                Length::Chunked => continue,
            };
            let value = ours.as_ref().map_or(value.as_slice(), String::as_bytes);
            told |= claims;
            line(&mut head, name.as_bytes(), value);
        }
        let own = if relayed.is_some() { &[][..] } else { &answer.headers };
        for (name, value) in own {
            line(&mut head, name.as_str().as_bytes(), value.as_bytes());
        }
        for (name, value) in more {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match length {
            Length::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            // RFC 9110 §8.6
            Length::Bytes(_) if status.as_u16() == 204 || told => {}
            Length::Bytes(_) if relayed.is_some() && request.method == "HEAD" => {}
            Length::Bytes(_) if relayed.is_some() && status.as_u16() == 304 => {}
            Length::Bytes(bytes) => {
                let _ = write!(head, "content-length: {bytes}\r\n");
            }
        }
        if !self.keep {
            head.extend_from_slice(b"connection: close\r\n");
        }
        if relayed.is_none() && !answer.headers.iter().any(|(name, _)| name == "date") {
            let _ = write!(head, "date: {}\r\n", httpdate::HttpDate::from(SystemTime::now()));
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Plays a fault; the end where it decides one itself.
    async fn faulty(
        &mut self,
        answer: &Answer,
        request: &Head<'_>,
        fault: Fault,
    ) -> io::Result<Option<End>> {
        let body = body_of(answer, request);
        let length = Length::Bytes(answer.body.len() as i128);
        match fault {
            Fault::CloseOut { after_bytes, reset } => {
                let mut all = self.head(answer, request, &length, &[]);
                all.extend_from_slice(body);
                let sent = all.len().min(usize::try_from(after_bytes).unwrap_or(usize::MAX));
                self.pieces(&all[..sent]).await?;
                return Ok(Some(if reset { End::Reset } else { End::Cut }));
            }
            Fault::TruncateBody { after_bytes } => {
                let sent = body.len().min(usize::try_from(after_bytes).unwrap_or(usize::MAX));
                let head = self.head(answer, request, &length, &[]);
                self.wire.send(&head).await?;
                self.pieces(&body[..sent]).await?;
            }
            Fault::WrongLength { by } => {
                let claimed = (answer.body.len() as i128 + i128::from(by)).max(0);
                let head = self.head(answer, request, &Length::Bytes(claimed), &[]);
                self.wire.send(&[&head, body].concat()).await?;
            }
            Fault::BadStatusLine { line } => {
                let head = self.head(answer, request, &length, &[]);
                let rest = head.iter().position(|&byte| byte == b'\r').unwrap_or(0);
                self.wire.send(&[line.as_bytes(), &head[rest..], body].concat()).await?;
            }
            Fault::BadChunk => {
                let head = self.head(answer, request, &Length::Chunked, &[]);
                let first = if body.is_empty() { &b"x"[..] } else { body };
                let size = format!("{:x}\r\n", first.len());
                let parts = [&head, size.as_bytes(), first, b"\r\nthis is no size\r\n\r\n"];
                self.wire.send(&parts.concat()).await?;
            }
            Fault::Interim { count, status } => {
                let reason = if status == 103 { "Early Hints" } else { "Processing" };
                let one = format!("HTTP/1.1 {status} {reason}\r\n\r\n");
                let at_once = (PIECE / one.len()) as u32;
                let mut left = count;
                while left > 0 {
                    let now = left.min(at_once);
                    self.wire.send(one.repeat(now as usize).as_bytes()).await?;
                    left -= now;
                }
                self.plain(answer, request).await?;
            }
            Fault::DripHead { bytes, every_ms } => {
                let head = self.head(answer, request, &length, &[]);
                self.drip(&head, bytes, every_ms).await?;
                self.pieces(body).await?;
            }
            Fault::DripBody { bytes, every_ms } => {
                let head = self.head(answer, request, &length, &[]);
                self.wire.send(&head).await?;
                self.drip(body, bytes, every_ms).await?;
            }
            Fault::HugeHead { bytes } => {
                let head = self.head(answer, request, &length, &[]);
                self.wire.send(&head[..head.len() - 2]).await?;
                self.wire.send(b"x-huge: ").await?;
                self.fill(bytes, b'x').await?;
                self.wire.send(b"\r\n\r\n").await?;
                self.pieces(body).await?;
            }
            Fault::HugeBody { bytes } => {
                let length = Length::Bytes(i128::from(bytes));
                let head = self.head(answer, request, &length, &[]);
                self.wire.send(&head).await?;
                self.fill(bytes, b'x').await?;
            }
            Fault::Bomb { bytes } => {
                let bomb = Bomb::new(bytes)?;
                let length = Length::Bytes(i128::from(bomb.bytes()));
                let gzip = [("content-encoding", "gzip")];
                let head = self.head(answer, request, &length, &gzip);
                self.wire.send(&head).await?;
                self.wire.send(Bomb::HEAD).await?;
                for _ in 0..bomb.blocks {
                    self.wire.send(&bomb.block).await?;
                }
                self.wire.send(&bomb.tail).await?;
            }
            // Played before an answer begins, or turned into a plain answer.
            Fault::Hang
            | Fault::Reset
            | Fault::StopReading
            | Fault::CloseIn { .. }
            | Fault::Redirect { .. }
            | Fault::Goaway { .. }
            | Fault::RstStream { .. } => return Ok(Some(End::Cut)),
        }
        Ok(None)
    }

    async fn drip(&mut self, bytes: &[u8], at_once: usize, every_ms: u64) -> io::Result<()> {
        for (at, piece) in bytes.chunks(at_once.max(1)).enumerate() {
            if at > 0 {
                sleep(Duration::from_millis(every_ms)).await;
            }
            self.wire.send(piece).await?;
        }
        Ok(())
    }

    async fn fill(&mut self, bytes: u64, with: u8) -> io::Result<()> {
        let piece = vec![with; PIECE];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(PIECE as u64);
            self.wire.send(&piece[..now as usize]).await?;
            left -= now;
        }
        Ok(())
    }
}

/// The content that is sent: none to HEAD, nor where the status has none (RFC 9112 §6.3).
fn body_of<'a>(answer: &'a Answer, request: &Head<'_>) -> &'a [u8] {
    let none = request.method == "HEAD" || matches!(answer.status.as_u16(), 204 | 304);
    if none { &[] } else { &answer.body }
}

/// A gzip stream (RFC 1952) of zero bytes, which repeats one packed MiB.
pub(super) struct Bomb {
    pub(super) block: Vec<u8>,
    pub(super) blocks: u64,
    pub(super) tail: Vec<u8>,
}

impl Bomb {
    pub(super) const HEAD: &'static [u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    const BLOCK_BYTES: usize = 1 << 20;

    pub(super) fn new(bytes: u64) -> io::Result<Self> {
        let blocks = bytes.div_ceil(Self::BLOCK_BYTES as u64).max(1);
        let zeros = vec![0; Self::BLOCK_BYTES];
        let mut block = Vec::with_capacity(8 << 10);
        // A full flush forgets what came before, so that the same bytes can follow.
        let mut packer = flate2::Compress::new(Compression::best(), false);
        let status = packer.compress_vec(&zeros, &mut block, FlushCompress::Full)?;
        if status != Status::Ok || packer.total_in() != Self::BLOCK_BYTES as u64 {
            return Err(io::Error::other("a MiB of zeros does not fit its buffer"));
        }
        let (mut one, mut all) = (Crc::new(), Crc::new());
        one.update(&zeros);
        (0..blocks).for_each(|_| all.combine(&one));
        let mut tail = vec![0x03, 0x00]; // An empty last block.
        tail.extend_from_slice(&all.sum().to_le_bytes());
        let size = (blocks * Self::BLOCK_BYTES as u64) as u32; // Modulo 2^32, as the RFC says.
        tail.extend_from_slice(&size.to_le_bytes());
        Ok(Self { block, blocks, tail })
    }

    /// How many bytes it is long, packed.
    pub(super) fn bytes(&self) -> u64 {
        (Self::HEAD.len() + self.tail.len()) as u64 + self.blocks * self.block.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::Bomb;

    #[test]
    fn a_bomb_is_whole_gzip() {
        for mib in [1, 3] {
            let bomb = Bomb::new(mib << 20).expect("packs");
            let mut bytes = Bomb::HEAD.to_vec();
            (0..bomb.blocks).for_each(|_| bytes.extend_from_slice(&bomb.block));
            bytes.extend_from_slice(&bomb.tail);
            assert_eq!(bytes.len() as u64, bomb.bytes());
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).expect("is gzip");
            assert_eq!(unpacked.len() as u64, mib << 20);
            assert!(bytes.len() < 4096 * mib as usize && unpacked.iter().all(|&byte| byte == 0));
        }
    }
}
