//! Captures in files of a folder, so that they are there after a restart.
//!
//! Segments, named by the first sequence number that they may hold, of frames: length and CRC-32C
//! of what follows (4 bytes each, little-endian), a line of JSON, and the raw bytes that it gives
//! the lengths of. Frames go to the system as they come and are not synced: they outlive this
//! process, not a power cut. What a crash cut off at the end is cut away at the next opening.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Forwarded, Problem,
    capture::{Headers, Record, Timeline},
};

/// Where a new segment begins.
const SEGMENT_BYTES: u64 = 64 << 20;
/// No frame is larger; what says so is damage.
const FRAME_BYTES_MAX: u64 = 1 << 30;
const LOCK: &str = "lock";

/// The line of a frame.
#[derive(Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Capture(Box<Meta>),
    /// The captures of a bin, or all, were forgotten.
    Clear {
        bin: Option<String>,
    },
}

/// Everything of a capture but its raw bytes.
#[derive(Deserialize, Serialize)]
struct Meta {
    seq: u64,
    bin: String,
    at: Timestamp,
    method: String,
    path: String,
    query: Option<String>,
    version: String,
    body_bytes: u64,
    problem: Option<String>,
    reason: Option<String>,
    peer: SocketAddr,
    connection: u64,
    request: u64,
    status: Option<u16>,
    tls_us: Option<u64>,
    first_byte_us: u64,
    head_us: u64,
    read_us: u64,
    /// Lengths of the bytes behind the line.
    head: usize,
    trailers: usize,
    body: usize,
    /// Absent in files of older versions.
    forwarded: Option<ForwardMeta>,
}

/// What came of forwarding it, but for the raw bytes.
#[derive(Deserialize, Serialize)]
struct ForwardMeta {
    to: String,
    status: Option<u16>,
    error: Option<String>,
    took_us: u64,
    /// Lengths of the bytes behind those of the request.
    head: usize,
    trailers: usize,
    body: usize,
}

/// What a frame tells at opening.
pub(crate) enum Told {
    Capture(Box<Record>),
    Clear(Option<String>),
}

pub(crate) struct Journal {
    dir: PathBuf,
    /// Held for as long as the folder is ours.
    _lock: File,
    file: File,
    bytes: u64,
    /// Older segments, each with the last sequence number that it may hold.
    older: VecDeque<(PathBuf, u64)>,
    current: PathBuf,
    /// Why nothing is written any more.
    pub(crate) broken: Option<String>,
}

impl Journal {
    /// Opens a folder, which is made where there is none, and tells what is in it, oldest first;
    /// returns the last sequence number that was given, too.
    ///
    /// # Errors
    /// [`Start`](ErrorKind::Start) where the folder cannot be used or another receiver has it.
    pub(crate) fn open(dir: &Path, mut tell: impl FnMut(Told)) -> Result<(Self, u64), Error> {
        let failed = |error: io::Error| {
            let message = format!("cannot use the folder {} (--store): {error}", dir.display());
            Error::new(ErrorKind::Start, message)
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::create(dir.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|_| {
            failed(io::Error::other("another receiver has it; choose another folder"))
        })?;
        let mut segments = segments(dir).map_err(failed)?;
        let mut last = 0;
        let mut size = 0;
        for (at, (first, path)) in segments.iter().enumerate() {
            last = last.max(first.saturating_sub(1));
            let (good, whole) = read(path, &mut last, &mut tell).map_err(failed)?;
            if good < whole {
                let lost = whole - good;
                tracing::warn!(file = %path.display(), bytes = lost, "a damaged end is passed over");
            }
            if at + 1 == segments.len() {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                file.set_len(good).map_err(failed)?;
                size = good;
            }
        }
        let current = segments.pop().map_or_else(|| path_of(dir, last + 1), |(_, path)| path);
        let file = append(&current).map_err(failed)?;
        let firsts = segments.iter().skip(1).map(|(first, _)| *first).chain([first_of(&current)]);
        let older = segments.iter().zip(firsts);
        let older = older.map(|((_, path), next)| (path.clone(), next - 1)).collect();
        let dir = dir.to_owned();
        Ok((Self { dir, _lock: lock, file, bytes: size, older, current, broken: None }, last))
    }

    /// Writes a capture that is kept. Where that fails, nothing more is written, and `broken`
    /// says why: capturing goes on in memory.
    pub(crate) fn push(&mut self, record: &Record) {
        let micros = |at: Duration| at.as_micros() as u64;
        let Timeline { tls, first_byte, head, body, .. } = &record.timeline;
        let meta = Meta {
            seq: record.seq,
            bin: record.bin.to_string(),
            at: record.at,
            method: record.method.clone(),
            path: record.path.clone(),
            query: record.query.clone(),
            version: record.version.to_owned(),
            body_bytes: record.body_bytes,
            problem: record.problem.map(|problem| problem.as_str().to_owned()),
            reason: record.reason.clone(),
            peer: record.peer,
            connection: record.connection,
            request: record.request,
            status: record.status,
            tls_us: tls.map(micros),
            first_byte_us: micros(*first_byte),
            head_us: micros(*head),
            read_us: micros(*body),
            head: record.head().len(),
            trailers: record.trailers.head().len(),
            body: record.body.len(),
            forwarded: record.forwarded.as_ref().map(|forwarded| ForwardMeta {
                to: forwarded.to.clone(),
                status: forwarded.status,
                error: forwarded.error.clone(),
                took_us: micros(forwarded.duration),
                head: forwarded.headers.head().len(),
                trailers: forwarded.trailers.head().len(),
                body: forwarded.body.len(),
            }),
        };
        let answer: [&[u8]; 3] = match &record.forwarded {
            Some(one) => [one.headers.head(), one.trailers.head(), &one.body],
            None => [&[]; 3],
        };
        let [head, trailers, body] = answer;
        let raw = [record.head(), record.trailers.head(), &record.body, head, trailers, body];
        self.frame(&Line::Capture(Box::new(meta)), raw, record.seq);
    }

    /// Writes that the captures of a bin, or all, were forgotten.
    pub(crate) fn clear(&mut self, bin: Option<&str>, last_seq: u64) {
        self.frame(&Line::Clear { bin: bin.map(str::to_owned) }, [&[]; 6], last_seq);
    }

    /// Removes the segments that hold nothing from this sequence number on.
    pub(crate) fn forget_before(&mut self, seq: u64) {
        while self.older.front().is_some_and(|(_, last)| *last < seq) {
            if let Some((path, _)) = self.older.pop_front() {
                let _ = fs::remove_file(path); // What stays is removed after the next opening.
            }
        }
    }

    fn frame(&mut self, line: &Line, raw: [&[u8]; 6], seq: u64) {
        if self.broken.is_some() {
            return;
        }
        if let Err(error) = self.try_frame(line, raw, seq) {
            tracing::error!(error = %error, "captures are not written to files any more");
            self.broken = Some(format!("{}: {error}", self.current.display()));
        }
    }

    fn try_frame(&mut self, line: &Line, raw: [&[u8]; 6], seq: u64) -> io::Result<()> {
        if self.bytes >= SEGMENT_BYTES {
            // A capture's own number is the first of the new segment, a clearing's the one behind.
            let first = if matches!(line, Line::Capture(_)) { seq } else { seq + 1 };
            let path = path_of(&self.dir, first);
            self.file = append(&path)?;
            self.bytes = 0;
            let full = std::mem::replace(&mut self.current, path);
            self.older.push_back((full, first - 1));
        }
        let mut frame = vec![0; 8];
        serde_json::to_writer(&mut frame, line)?;
        frame.push(b'\n');
        for bytes in raw {
            frame.extend_from_slice(bytes);
        }
        let length = u32::try_from(frame.len() - 8).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let sum = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all(&frame)?;
        self.bytes += frame.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("captures-{first:020}.log"))
}

fn first_of(path: &Path) -> u64 {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("captures-").and_then(|rest| rest.strip_suffix(".log"));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The segments of a folder by their first sequence number.
fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let first = first_of(&path);
        if first > 0 {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the frames of a segment up to its end or the first that is damaged; how many bytes are
/// good, and how many there are.
fn read(path: &Path, last: &mut u64, tell: &mut impl FnMut(Told)) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let whole = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut good = 0;
    loop {
        let mut start = [0; 8];
        if good + 8 > whole {
            return Ok((good, whole));
        }
        file.read_exact(&mut start)?;
        let [a, b, c, d, sum @ ..] = start;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if length > FRAME_BYTES_MAX || good + 8 + length > whole {
            return Ok((good, whole));
        }
        let mut frame = vec![0; length as usize];
        file.read_exact(&mut frame)?;
        let told = (crc32c::crc32c(&frame) == u32::from_le_bytes(sum)).then(|| told(&frame));
        let Some(Some(told)) = told else {
            return Ok((good, whole));
        };
        if let Told::Capture(record) = &told {
            *last = (*last).max(record.seq);
        }
        tell(told);
        good += 8 + length;
    }
}

fn told(frame: &[u8]) -> Option<Told> {
    let end = memchr::memchr(b'\n', frame)?;
    let meta = match serde_json::from_slice(&frame[..end]).ok()? {
        Line::Capture(meta) => *meta,
        Line::Clear { bin } => return Some(Told::Clear(bin)),
    };
    let raw = &frame[end + 1..];
    let (head, rest) = raw.split_at_checked(meta.head)?;
    let (trailers, body) = rest.split_at_checked(meta.trailers)?;
    let (body, rest) = body.split_at_checked(meta.body)?;
    let forwarded = match meta.forwarded {
        Some(forward) => {
            let (head, rest) = rest.split_at_checked(forward.head)?;
            let (trailers, rest) = rest.split_at_checked(forward.trailers)?;
            Some(Box::new(Forwarded {
                to: forward.to,
                status: forward.status,
                headers: Headers::of_head(Bytes::copy_from_slice(head)),
                trailers: Headers::of_lines(Bytes::copy_from_slice(trailers)),
                body: Bytes::copy_from_slice(rest.get(..forward.body)?),
                error: forward.error,
                duration: Duration::from_micros(forward.took_us),
            }))
        }
        None => None,
    };
    let mut timeline = Timeline::new(
        meta.tls_us.map(Duration::from_micros),
        Duration::from_micros(meta.first_byte_us),
    );
    timeline.head = Duration::from_micros(meta.head_us);
    timeline.body = Duration::from_micros(meta.read_us);
    let version =
        ["HTTP/1.0", "HTTP/1.1", "HTTP/2"].into_iter().find(|one| *one == meta.version)?;
    let problem =
        meta.problem.map(|name| Problem::ALL.into_iter().find(|one| one.as_str() == name));
    Some(Told::Capture(Box::new(Record {
        seq: meta.seq,
        bin: meta.bin.into(),
        at: meta.at,
        method: meta.method,
        path: meta.path,
        query: meta.query,
        version,
        headers: Headers::of_head(Bytes::copy_from_slice(head)),
        trailers: Headers::of_lines(Bytes::copy_from_slice(trailers)),
        body: Bytes::copy_from_slice(body),
        body_bytes: meta.body_bytes,
        problem: problem.flatten(),
        reason: meta.reason,
        peer: meta.peer,
        connection: meta.connection,
        request: meta.request,
        status: meta.status,
        duration: timeline.body.saturating_sub(timeline.head),
        timeline,
        forwarded,
    })))
}
