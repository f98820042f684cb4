//! What a failed check leaves behind: one HTML file that needs nothing else.

use std::fmt::Write as _;

use crate::{Capture, Deliveries, diff::diff};

/// How many requests a page shows.
const SHOWN_MAX: usize = 500;
/// How much of a body a page shows.
const BODY_CHARS_MAX: usize = 4_000;

/// The page. Everything that came from a sender is escaped, and the page runs no script.
pub(crate) fn page(
    bin: &str,
    account: &str,
    captures: &[Capture],
    deliveries: &Deliveries,
) -> String {
    let mut page = String::from(HEAD);
    // Writing to a string cannot fail.
    let _ =
        write!(page, "<h1>Bin {}</h1><pre class=account>{}</pre>", escaped(bin), escaped(account));
    timeline(&mut page, captures, deliveries);
    page.push_str("<h2>Differences between attempts</h2>");
    for delivery in deliveries.list.iter().take(SHOWN_MAX) {
        for pair in delivery.attempts.windows(2) {
            let text = diff(&pair[0], &pair[1]).to_string();
            let _ = write!(page, "<h3>{}</h3><pre>{}</pre>", escaped(&delivery.id), escaped(&text));
        }
    }
    page.push_str("<h2>Requests</h2>");
    for capture in captures.iter().take(SHOWN_MAX) {
        let head = String::from_utf8_lossy(capture.head());
        let body: String =
            String::from_utf8_lossy(&capture.body).chars().take(BODY_CHARS_MAX).collect();
        let _ = write!(
            page,
            "<details id=r{}><summary>{} {:.3}</summary><pre>{}{}</pre></details>",
            capture.seq,
            escaped(&(**capture).to_string()),
            capture.at,
            escaped(&head),
            escaped(&body)
        );
    }
    if captures.len() > SHOWN_MAX {
        let _ = write!(page, "<p>… {} more</p>", captures.len() - SHOWN_MAX);
    }
    page.push_str("</body></html>\n");
    page
}

/// A row per message with its attempts along one axis of time.
fn timeline(page: &mut String, captures: &[Capture], deliveries: &Deliveries) {
    let (Some(first), Some(last)) = (captures.first(), captures.last()) else { return };
    let begin = first.at.as_microsecond();
    let whole = (last.at.as_microsecond() - begin).max(1) as f64;
    page.push_str("<h2>Timeline</h2><table>");
    for delivery in deliveries.list.iter().take(SHOWN_MAX) {
        let _ = write!(page, "<tr><th>{}</th><td><div class=axis>", escaped(&delivery.id));
        for attempt in &delivery.attempts {
            let place = (attempt.at.as_microsecond() - begin).max(0) as f64 / whole * 98.0;
            let class = match attempt.status {
                Some(200..300) => "good",
                Some(_) => "bad",
                None => "none",
            };
            let status = attempt.status.map_or("–".to_owned(), |status| status.to_string());
            let _ = write!(
                page,
                "<a class={class} href=#r{} style=\"left:{place:.2}%\" title=\"#{} {:.3}\">{status}</a>",
                attempt.seq, attempt.seq, attempt.at
            );
        }
        let _ = write!(page, "</div></td><td>{}</td></tr>", escaped(&delivery.to_string()));
    }
    page.push_str("</table>");
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8>\
    <meta http-equiv=content-security-policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\
    <title>mock-receiver: a check failed</title><style>\
    :root{color-scheme:light dark}body{font:14px/1.5 system-ui,sans-serif;margin:2rem;max-width:80rem}\
    pre{white-space:pre-wrap;overflow-wrap:anywhere;padding:.5rem;border:1px solid #8886}\
    .account{border-left:4px solid #c33}th{text-align:left;white-space:nowrap}\
    td:nth-child(2){width:50%}.axis{position:relative;height:1.6rem;border-bottom:1px solid #8886}\
    .axis a{position:absolute;font-size:11px;padding:0 3px;text-decoration:none;color:#fff;background:#777}\
    .axis .good{background:#27713b}.axis .bad{background:#b3261e}</style></head><body>";

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}
