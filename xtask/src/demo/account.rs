//! The demo's book-keeping: what was sent against what was found, event by event. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;
use serde_json::value::RawValue;

use super::guide;

/// An event as the program that published it reports it.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) kind: String,
    /// The exact body that a webhook must get.
    pub(super) body: String,
}

/// An event as it was found at an endpoint.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// What is wrong at one place. Events are numbered from 1 for people, from 0 here.
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    Missing {
        event: usize,
    },
    Doubled {
        event: usize,
        times: usize,
    },
    Altered {
        event: usize,
        expected: Vec<u8>,
        found: Vec<u8>,
    },
    /// Something arrived that nobody sent.
    Unknown {
        id: String,
    },
    /// Something arrived that cannot be read, or not in the way it should.
    Odd(String),
}

/// How one place did.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) place: &'static str,
    /// Events that are there exactly once with exactly their bytes.
    pub(super) exact: usize,
    pub(super) problems: Vec<Problem>,
}

/// Reads the dashboard's report: one JSON object per line with `id`, `type` and `body`.
pub(super) fn read_report(text: &str) -> Result<Vec<Event>, String> {
    let read = |(index, line): (usize, &str)| {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| format!("the dashboard's report, line {}: {error}", index + 1))?;
        let field = |name: &str| {
            value[name].as_str().map(str::to_owned).ok_or_else(|| {
                format!("the dashboard's report, line {}: {name:?} is no string", index + 1)
            })
        };
        Ok(Event { id: field("id")?, kind: field("type")?, body: field("body")? })
    };
    text.lines().enumerate().map(read).collect()
}

/// Checks the report itself: so many events, each with an id of its own, the first ones as the guide
/// prints them, the others of the type that they claim.
pub(super) fn check_report(events: &[Event], expected: usize) -> Verdict {
    let mut verdict = Verdict { place: "report", exact: 0, problems: Vec::new() };
    if events.len() != expected {
        let reason = format!("it lists {} events instead of {expected}", events.len());
        verdict.problems.push(Problem::Odd(reason));
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        if let Some(first) = seen.insert(&event.id, index) {
            let reason =
                format!("events {} and {} have the same id {}", first + 1, index + 1, event.id);
            verdict.problems.push(Problem::Odd(reason));
        } else if !event.body.starts_with(&format!("{{\"event\":\"{}\",", event.kind)) {
            let reason =
                format!("the body of event {} is not of its type {:?}", index + 1, event.kind);
            verdict.problems.push(Problem::Odd(reason));
        } else if let Some(problem) =
            altered(index, expected_body(index, event), event.body.as_bytes())
        {
            verdict.problems.push(problem);
        } else {
            verdict.exact += 1;
        }
    }
    verdict
}

/// Checks one place: every event exactly once and unaltered, and nothing else.
pub(super) fn check(
    place: &'static str,
    events: &[Event],
    found: &[Arrival],
    odd: Vec<String>,
) -> Verdict {
    let numbers: HashMap<&str, usize> =
        events.iter().enumerate().map(|(index, event)| (event.id.as_str(), index)).collect();
    let mut arrivals: Vec<Vec<&[u8]>> = vec![Vec::new(); events.len()];
    let mut verdict = Verdict { place, exact: 0, problems: Vec::new() };
    for arrival in found {
        match numbers.get(arrival.id.as_str()) {
            Some(&event) => arrivals[event].push(&arrival.body),
            None => verdict.problems.push(Problem::Unknown { id: arrival.id.clone() }),
        }
    }
    for (index, (event, bodies)) in events.iter().zip(&arrivals).enumerate() {
        let before = verdict.problems.len();
        match bodies.as_slice() {
            [] => verdict.problems.push(Problem::Missing { event: index }),
            [_] => {}
            more => verdict.problems.push(Problem::Doubled { event: index, times: more.len() }),
        }
        let expected = expected_body(index, event);
        verdict.problems.extend(bodies.iter().filter_map(|found| altered(index, expected, found)));
        verdict.exact += usize::from(verdict.problems.len() == before);
    }
    verdict.problems.extend(odd.into_iter().map(Problem::Odd));
    verdict
}

/// The guide's own bytes for the first events, the report's for the others.
fn expected_body(index: usize, event: &Event) -> &str {
    guide::BODIES.get(index).copied().unwrap_or(&event.body)
}

fn altered(event: usize, expected: &str, found: &[u8]) -> Option<Problem> {
    (expected.as_bytes() != found).then(|| Problem::Altered {
        event,
        expected: expected.into(),
        found: found.to_vec(),
    })
}

/// Reads the lines that the file and stdout sinks write, `{"id","event","timestamp",..,"data"}`, into
/// the body that a webhook would have got; `data` keeps its bytes. The second part of the answer
/// names lines that are none.
pub(super) fn read_lines(bytes: &[u8]) -> (Vec<Arrival>, Vec<String>) {
    let mut arrivals = Vec::new();
    let mut odd = Vec::new();
    let Some(lines) = bytes.strip_suffix(b"\n") else {
        if !bytes.is_empty() {
            odd.push("its last line does not end".into());
        }
        return (arrivals, odd);
    };
    for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        match read_line(line) {
            Ok(arrival) => arrivals.push(arrival),
            Err(reason) => odd.push(format!("line {}: {reason}: {}", index + 1, excerpt(line, 0))),
        }
    }
    (arrivals, odd)
}

fn read_line(line: &[u8]) -> Result<Arrival, String> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let member = |name: &str| {
        members.get(name).map(|value| value.get()).ok_or_else(|| format!("it has no {name:?}"))
    };
    let id = serde_json::from_str(member("id")?).map_err(|error| format!("its id: {error}"))?;
    let body = format!(
        r#"{{"event":{},"timestamp":{},"data":{}}}"#,
        member("event")?,
        member("timestamp")?,
        member("data")?
    );
    Ok(Arrival { id, body: body.into_bytes() })
}

impl Verdict {
    pub(super) fn good(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems in words, at most `max`, and how many more there are.
    pub(super) fn reasons(&self, events: &[Event], max: usize) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .problems
            .iter()
            .take(max)
            .map(|problem| format!("{}: {}", self.place, Explained { problem, events }))
            .collect();
        if self.problems.len() > max {
            reasons.push(format!("{}: and {} more", self.place, self.problems.len() - max));
        }
        reasons
    }
}

struct Explained<'a> {
    problem: &'a Problem,
    events: &'a [Event],
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |index: usize| match self.events.get(index) {
            Some(event) => format!("event {} ({}, {})", index + 1, event.kind, event.id),
            None => format!("event {}", index + 1),
        };
        match self.problem {
            Problem::Missing { event } => write!(f, "{} is missing", name(*event)),
            Problem::Doubled { event, times } => {
                write!(f, "{} arrived {times} times", name(*event))
            }
            Problem::Altered { event, expected, found } => {
                let at = expected
                    .iter()
                    .zip(found)
                    .take_while(|(expected, found)| expected == found)
                    .count();
                write!(
                    f,
                    "{} is altered at byte {at}\n    expected {}\n    found    {}",
                    name(*event),
                    excerpt(expected, at),
                    excerpt(found, at)
                )
            }
            Problem::Unknown { id } => write!(f, "{id:?} arrived, which nobody sent"),
            Problem::Odd(reason) => f.write_str(reason),
        }
    }
}

/// The surroundings of byte `at`, on one line.
fn excerpt(bytes: &[u8], at: usize) -> String {
    const AROUND: usize = 30;
    let from = at.saturating_sub(AROUND).min(bytes.len());
    let to = (at + AROUND).min(bytes.len());
    let text = bytes[from..to].escape_ascii().to_string().replace("\\\"", "\"");
    let (before, after) =
        (if from > 0 { "…" } else { "" }, if to < bytes.len() { "…" } else { "" });
    format!("{before}{text}{after} ({} bytes)", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: usize) -> Vec<Event> {
        let kinds = ["match", "upload", "rebuild"];
        (0..count)
            .map(|index| {
                let kind = kinds[index % 3];
                let body = guide::BODIES.get(index).map_or_else(
                    || format!(r#"{{"event":"{kind}","timestamp":"2025-11-30T14:30:46.000Z","data":{{"n": {index}}}}}"#),
                    |body| (*body).to_owned(),
                );
                Event { id: format!("id-{index}"), kind: kind.into(), body }
            })
            .collect()
    }

    fn arrived(events: &[Event]) -> Vec<Arrival> {
        let arrival =
            |event: &Event| Arrival { id: event.id.clone(), body: event.body.clone().into() };
        events.iter().map(arrival).collect()
    }

    fn problems(events: &[Event], found: &[Arrival]) -> Vec<Problem> {
        let verdict = check("here", events, found, Vec::new());
        let bad = verdict.problems.len();
        assert_eq!(verdict.good(), bad == 0);
        verdict.problems
    }

    #[test]
    fn the_guides_bodies_are_compact_json_in_its_key_order() {
        for body in guide::BODIES {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(body).unwrap();
            let again = format!(
                r#"{{"event":{},"timestamp":"2025-11-30T14:30:45.123Z","data":{}}}"#,
                members["event"], members["data"]
            );
            assert_eq!(again, body);
            assert!(!body.contains(": ") && !body.contains(", "), "{body}");
        }
    }

    #[test]
    fn each_once_in_any_order_is_good() {
        let events = sent(7);
        let mut found = arrived(&events);
        found.reverse();
        let verdict = check("here", &events, &found, Vec::new());
        assert!(verdict.good() && verdict.exact == 7, "{verdict:?}");
    }

    #[test]
    fn missing_doubled_altered_and_unknown_are_told() {
        let events = sent(5);
        let mut found = arrived(&events);
        let last = found.pop().unwrap();
        assert_eq!(problems(&events, &found), [Problem::Missing { event: 4 }]);
        found.push(last.clone());
        found.push(last);
        assert_eq!(problems(&events, &found), [Problem::Doubled { event: 4, times: 2 }]);
        found.pop();
        found[3].body[20] ^= 1;
        let altered = Problem::Altered {
            event: 3,
            expected: events[3].body.clone().into(),
            found: found[3].body.clone(),
        };
        assert_eq!(problems(&events, &found), [altered]);
        found[3] = Arrival { id: "id-99".into(), body: Vec::new() };
        assert_eq!(
            problems(&events, &found),
            [Problem::Unknown { id: "id-99".into() }, Problem::Missing { event: 3 }]
        );
    }

    /// A second copy with other bytes is both: doubled and altered.
    #[test]
    fn a_doubled_event_does_not_hide_that_one_copy_is_altered() {
        let events = sent(3);
        let mut found = arrived(&events);
        found.push(Arrival { id: "id-1".into(), body: b"{}".into() });
        let verdict = check("here", &events, &found, Vec::new());
        assert_eq!((verdict.problems.len(), verdict.exact), (2, 2), "{verdict:?}");
    }

    /// The first bodies are held against the guide, not against what the program says it sent.
    #[test]
    fn a_report_that_agrees_with_a_wrong_body_convinces_nobody() {
        let mut events = sent(3);
        events[0].body = events[0].body.replace("0.87", "0.870");
        assert_eq!(check("here", &events, &arrived(&events), Vec::new()).exact, 2);
        let verdict = check_report(&events, 3);
        let reason = verdict.reasons(&events, 5).join("\n");
        assert!(reason.contains("event 1 (match, id-0) is altered at byte"), "{reason}");
        assert!(reason.contains("0.87,") && reason.contains("0.870,"), "{reason}");
    }

    #[test]
    fn a_report_needs_all_events_with_ids_of_their_own_and_their_types() {
        assert!(check_report(&sent(10), 10).good());
        assert!(!check_report(&sent(10), 11).good());
        let mut events = sent(10);
        events[9].id = "id-0".into();
        assert!(!check_report(&events, 10).good());
        let mut events = sent(10);
        events[9].kind = "upload".into();
        assert!(!check_report(&events, 10).good());
    }

    #[test]
    fn lines_give_the_body_back_to_the_byte() {
        let line = br#"{"id":"a","event":"match","timestamp":"T","key":"k","data":{"x": 1.0e0}}"#;
        let (arrivals, odd) = read_lines(&[&line[..], b"\n"].concat());
        assert_eq!((arrivals.len(), odd), (1, Vec::new()));
        assert_eq!(arrivals[0].id, "a");
        assert_eq!(arrivals[0].body, br#"{"event":"match","timestamp":"T","data":{"x": 1.0e0}}"#);
    }

    #[test]
    fn torn_and_foreign_lines_are_told() {
        let odd = |text: &str| read_lines(text.as_bytes()).1;
        assert_eq!(odd("").len(), 0);
        assert_eq!(odd("{\"id\":\"a\"").len(), 1); // Torn.
        assert_eq!(odd("hello\n").len(), 1);
        assert_eq!(odd("{\"id\":\"a\",\"event\":\"match\",\"timestamp\":\"T\"}\n").len(), 1);
        let events = sent(0);
        let verdict = check("here", &events, &[], odd("hello\n"));
        assert!(!verdict.good());
    }

    #[test]
    fn many_problems_are_cut_short() {
        let events = sent(10);
        let reasons = check("here", &events, &[], Vec::new()).reasons(&events, 3);
        assert_eq!(reasons.len(), 4);
        assert_eq!(reasons[0], "here: event 1 (match, id-0) is missing");
        assert_eq!(reasons[3], "here: and 7 more");
    }

    #[test]
    fn reports_are_read_line_by_line() {
        let events = read_report("{\"id\":\"a\",\"type\":\"match\",\"body\":\"{}\"}\n").unwrap();
        assert_eq!((events.len(), events[0].id.as_str()), (1, "a"));
        assert!(
            read_report("{\"id\":\"a\",\"type\":\"match\"}")
                .unwrap_err()
                .contains("line 1: \"body\"")
        );
        assert!(read_report("hello").unwrap_err().contains("line 1"));
    }
}
