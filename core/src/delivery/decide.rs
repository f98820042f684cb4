//! The decision after an attempt, as a pure function.

use super::{DeadReason, Outcome, Verdict};
use crate::retry::{self, DELAY_MAX};
use crate::time::Timestamp;

/// What happens to a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Done.
    Delivered,
    /// Attempt again at this time.
    RetryAt(Timestamp),
    /// Give up.
    Dead(DeadReason),
    /// The next attempt would start after the event's deadline.
    Expired,
}

/// Decides what follows an attempt that ended at `now`.
///
/// `made` counts attempts, this one included; `happened_at` is the event's time. A receiver's wished delay lengthens the schedule's,
/// never shortens it, and counts up to 30 days. `random` picks the jitter.
pub fn decide(
    outcome: &Outcome,
    made: u32,
    policy: &retry::Policy,
    happened_at: Timestamp,
    expires_at: Option<Timestamp>,
    now: Timestamp,
    random: u64,
) -> Decision {
    let Err(nack) = outcome else { return Decision::Delivered };
    let wished = match nack.verdict() {
        Verdict::Reject => return Decision::Dead(DeadReason::Rejected),
        Verdict::Disable => return Decision::Dead(DeadReason::Gone),
        Verdict::Retry { after } => after.unwrap_or_default().min(DELAY_MAX),
    };
    let Some(delay) = policy.delay(made, random) else {
        return Decision::Dead(DeadReason::Exhausted);
    };
    let at = now.after(delay.max(wished));
    if policy.oldest().is_some_and(|age| at > happened_at.after(age)) {
        return Decision::Dead(DeadReason::Exhausted);
    }
    if expires_at.is_some_and(|deadline| at >= deadline) {
        return Decision::Expired;
    }
    Decision::RetryAt(at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::{Ack, Cause, Nack};

    #[test]
    fn table() {
        let policy =
            retry::Policy::new(vec![Duration::from_secs(5), Duration::from_secs(300)], 0.0)
                .unwrap();
        let now = Timestamp::from_millis(1_000_000);
        let at = |secs: u64| Decision::RetryAt(now.after(Duration::from_secs(secs)));
        let check = |outcome: Outcome, made: u32, expires: Option<u64>, expect: Decision| {
            let expires_at = expires.map(|secs| now.after(Duration::from_secs(secs)));
            assert_eq!(
                decide(&outcome, made, &policy, now, expires_at, now, 7),
                expect,
                "{outcome:?} {made}"
            );
        };
        let retry = || Nack::retry(Cause::Status, "500");
        check(Ok(Ack::new()), 1, None, Decision::Delivered);
        check(Ok(Ack::new()), 1, Some(0), Decision::Delivered);
        check(Err(retry()), 1, None, at(5));
        check(Err(retry()), 2, None, at(300));
        check(Err(retry()), 3, None, Decision::Dead(DeadReason::Exhausted));
        check(Err(retry().after(Duration::from_secs(60))), 1, None, at(60));
        check(Err(retry().after(Duration::from_secs(1))), 1, None, at(5));
        check(Err(retry().after(Duration::MAX)), 1, None, Decision::RetryAt(now.after(DELAY_MAX)));
        check(Err(retry()), 1, Some(6), at(5));
        check(Err(retry()), 1, Some(5), Decision::Expired);
        check(
            Err(Nack::reject(Cause::Format, "no")),
            1,
            None,
            Decision::Dead(DeadReason::Rejected),
        );
        check(Err(Nack::disable(Cause::Status, "410")), 1, None, Decision::Dead(DeadReason::Gone));
    }

    #[test]
    fn a_delivery_that_would_be_too_old_is_given_up() {
        let minute = Duration::from_mins(1);
        let policy = retry::Policy::new(vec![minute; 9], 0.0).unwrap().age_max(Some(5 * minute));
        let event = Timestamp::from_millis(1_000_000);
        let after = |age: Duration| {
            let failed = Err(Nack::retry(Cause::Status, "500"));
            decide(&failed, 1, &policy, event, None, event.after(age), 7)
        };
        assert_eq!(after(4 * minute), Decision::RetryAt(event.after(5 * minute)));
        assert_eq!(after(4 * minute + minute / 60), Decision::Dead(DeadReason::Exhausted));
    }
}
