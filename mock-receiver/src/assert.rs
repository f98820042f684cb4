//! Assertions about what a bin has captured: a short account where they do not hold.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    Capture, Deliveries, Error, ErrorKind, Key, Matcher, Receiver, Verdict, Wait,
    har::har,
    receiver::Shared,
    verify::{Secret, explain_with},
    wait::Wanted,
};

/// How many offenders an account lists.
const LISTED_MAX: usize = 20;

/// Checks of what a bin has captured so far, from [`Receiver::check`].
///
/// Each returns an [`Unmet`](ErrorKind::Unmet) error whose text is the account; `unwrap()` shows
/// it. Requests that are not whole are left out of all of them.
///
/// ```no_run
/// # async fn example(receiver: mock_receiver::Receiver) -> Result<(), mock_receiver::Error> {
/// use std::time::Duration;
///
/// let orders = receiver.check("orders").report("target/failed");  // The folder for a report.
/// orders.exactly_once()?;
/// orders.ordered_by("/data/number")?;
/// orders.backoff(&[Duration::from_secs(5)], 0.2)?;
/// orders.signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// orders.none_within(Duration::from_millis(200)).await?;
/// # Ok(())
/// # }
/// ```
pub struct Check {
    shared: Arc<Shared>,
    runtime: Handle,
    bin: String,
    key: Key,
    matcher: Matcher,
    report: Option<PathBuf>,
}

impl Receiver {
    /// Checks of what that bin has captured so far.
    pub fn check(&self, bin: impl Into<String>) -> Check {
        Check::new(self.shared.clone(), self.runtime.clone(), bin.into())
    }

    /// What the bin has captured, by message.
    pub fn deliveries(&self, bin: &str, key: &Key) -> Deliveries {
        Deliveries::of(self.requests(bin), key)
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("bin", &self.bin)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Check {
    pub(crate) fn new(shared: Arc<Shared>, runtime: Handle, bin: String) -> Self {
        let (key, matcher) = (Key::Known, Matcher::new());
        Self { shared, runtime, bin, key, matcher, report: None }
    }

    /// How requests are grouped into deliveries. Default [`Key::Known`].
    pub fn by(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// Looks only at these requests.
    pub fn matching(mut self, matcher: Matcher) -> Self {
        self.matcher = matcher;
        self
    }

    /// Where a check does not hold, writes `BIN.html` (one file with all in it: the account, a
    /// timeline, the differences between attempts) and `BIN.har` into this folder, which is made
    /// where it is missing; the account names them.
    pub fn report(mut self, folder: impl Into<PathBuf>) -> Self {
        self.report = Some(folder.into());
        self
    }

    fn captures(&self) -> Vec<Capture> {
        let mut captures = self.shared.store.range(Some(&self.bin), 0, usize::MAX);
        captures.retain(|capture| capture.is_whole() && self.matcher.matches(capture));
        captures
    }

    fn deliveries(&self) -> Deliveries {
        Deliveries::of(self.captures(), &self.key)
    }

    /// Each message was answered with 2xx once, and did not come again behind that. Returns how
    /// many messages there are; a request without an id is an offender.
    pub fn exactly_once(&self) -> Result<usize, Error> {
        let deliveries = self.deliveries();
        let mut offences = keyless(&deliveries);
        for delivery in &deliveries.list {
            match (delivery.successes(), delivery.after_success().len()) {
                (1, 0) => {}
                (0, _) => offences.push(format!("never taken over: {delivery}")),
                (1, _) => offences.push(format!("came again after its success: {delivery}")),
                (n, _) => offences.push(format!("taken over {n} times: {delivery}")),
            }
        }
        self.verdict("exactly once", &offences)?;
        Ok(deliveries.list.len())
    }

    /// The messages were taken over in the order of what this JSON pointer or header gives:
    /// numbers by value, else texts by their bytes; equal ones may follow each other. Only
    /// requests that were answered with 2xx count.
    pub fn ordered_by(&self, key: &str) -> Result<(), Error> {
        let key = Key::parse(key)?;
        let mut offences = Vec::new();
        let mut last: Option<(String, Capture)> = None;
        let taken = |capture: &Capture| capture.status.is_some_and(|s| (200..300).contains(&s));
        for capture in self.captures().into_iter().filter(taken) {
            let Some(value) = key.of(&capture) else {
                offences.push(format!("without a value: {}", *capture));
                continue;
            };
            if let Some((before, earlier)) = &last
                && is_before(&value, before)
            {
                offences.push(format!(
                    "{value:?} (#{}) came behind {before:?} (#{})",
                    capture.seq, earlier.seq
                ));
            }
            last = Some((value, capture));
        }
        self.verdict("in order", &offences)
    }

    /// Each message was tried again after these gaps, give or take that part of each (0.2: a
    /// fifth) and 50 ms; what was taken over needs no further attempt.
    pub fn backoff(&self, schedule: &[Duration], tolerance: f64) -> Result<(), Error> {
        let deliveries = self.deliveries();
        let mut offences = keyless(&deliveries);
        for delivery in &deliveries.list {
            let misses = delivery.schedule_misses(schedule, tolerance);
            offences.extend(misses.iter().map(|miss| format!("{:?}: {miss}", delivery.id)));
        }
        self.verdict("tried again by the schedule", &offences)
    }

    /// Each request has a signature that holds with this secret (see [`On::secrets`](crate::On)
    /// for how it is written); the account has the cause where it does not.
    pub fn signed_with(&self, secret: &str) -> Result<(), Error> {
        let secret = [Secret::new(secret)?];
        let captures = self.captures();
        let mut offences = Vec::new();
        for capture in &captures {
            let explained = explain_with(capture, &secret, &[]);
            if explained.verdict != Verdict::Valid {
                let account = explained.to_string().replace('\n', "\n    ");
                offences.push(format!("{}\n    {account}", **capture));
            }
        }
        self.verdict("signed with the secret", &offences)
    }

    /// For this long no further request comes (of those that match). What came before counts not.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn none_within(&self, within: Duration) -> Result<(), Error> {
        let have = self.captures().len();
        let (bin, matcher) = (self.bin.clone(), self.matcher.clone());
        let wanted = Wanted { bin, count: have + 1, within, matcher };
        let (shared, runtime) = (self.shared.clone(), self.runtime.clone());
        match (Wait { shared, runtime, wanted }).await {
            Ok(captures) => {
                let more = captures.iter().skip(have);
                let offences: Vec<_> = more.map(|capture| (**capture).to_string()).collect();
                self.verdict(&format!("quiet for {within:?}"), &offences)
            }
            Err(error) if error.kind() == ErrorKind::Unmet => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn verdict(&self, wanted: &str, offences: &[String]) -> Result<(), Error> {
        if offences.is_empty() {
            return Ok(());
        }
        let captures = self.captures();
        let mut account = format!(
            "bin {:?} is not {wanted}: {} offences in {} requests",
            self.bin,
            offences.len(),
            captures.len()
        );
        for offence in offences.iter().take(LISTED_MAX) {
            let _ = write!(account, "\n  {offence}"); // Writing to a string cannot fail.
        }
        if offences.len() > LISTED_MAX {
            let _ = write!(account, "\n  … {} more", offences.len() - LISTED_MAX);
        }
        if let Some(folder) = &self.report {
            let written = self.write(folder, &account, &captures);
            let _ = match written {
                Ok(path) => write!(account, "\nreport: {}", path.display()),
                Err(error) => write!(account, "\nno report in {}: {error}", folder.display()),
            };
        }
        Err(Error::new(ErrorKind::Unmet, account).with_captures(captures))
    }

    fn write(
        &self,
        folder: &Path,
        account: &str,
        captures: &[Capture],
    ) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let safe = |char: char| if char.is_ascii_alphanumeric() { char } else { '_' };
        let name: String = self.bin.chars().map(safe).collect();
        let page = folder.join(format!("{name}.html"));
        std::fs::write(folder.join(format!("{name}.har")), har(captures).to_string())?;
        std::fs::write(&page, self.page(account, captures))?;
        Ok(page)
    }

    /// The page that tells of a check which did not hold.
    pub(crate) fn page(&self, account: &str, captures: &[Capture]) -> String {
        let deliveries = Deliveries::of(captures.to_vec(), &self.key);
        crate::report::page(&self.bin, account, captures, &deliveries)
    }
}

fn keyless(deliveries: &Deliveries) -> Vec<String> {
    deliveries.keyless.iter().map(|capture| format!("without an id: {}", **capture)).collect()
}

fn is_before(value: &str, other: &str) -> bool {
    match (value.parse::<i128>(), other.parse::<i128>()) {
        (Ok(value), Ok(other)) => value < other,
        _ => value < other,
    }
}
