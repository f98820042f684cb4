//! How things are measured: slices of subject and limit in turn, wall time and CPU time of each.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::{Failure, Scale};

/// What one slice took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) wall: Duration,
    /// CPU time of all threads of this process, kernel time included.
    pub(crate) cpu: Duration,
}

/// Takes the time of a slice.
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { cpu: cpu(), wall: Instant::now() }
    }

    pub(crate) fn stop(self) -> Took {
        let wall = self.wall.elapsed();
        Took { wall, cpu: cpu().saturating_sub(self.cpu) }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// One side of a comparison: does the same amount of work in each slice.
pub(crate) trait Side: Send {
    /// Runs one slice. What is not part of the figure happens outside its stopwatch.
    fn slice(&mut self) -> impl Future<Output = Result<Took, Failure>> + Send;
}

/// Slices of both sides, pair by pair; no limit where the subject is one itself.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) subject: Vec<Took>,
    pub(crate) limit: Vec<Took>,
}

/// Measures both sides in turn. Each begins every second pair, so that a machine which gets slower
/// or faster meanwhile favours neither; one pair before is for warming up and does not count.
pub(crate) async fn alternate(
    scale: Scale,
    subject: &mut impl Side,
    limit: &mut impl Side,
) -> Result<Pairs, Failure> {
    subject.slice().await?;
    limit.slice().await?;
    let mut pairs = Pairs::default();
    for pair in 0..scale.pairs {
        if pair % 2 == 0 {
            pairs.subject.push(subject.slice().await?);
            pairs.limit.push(limit.slice().await?);
        } else {
            pairs.limit.push(limit.slice().await?);
            pairs.subject.push(subject.slice().await?);
        }
    }
    Ok(pairs)
}

/// The middle of some figures, with the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (figures.len() - 1) as f64;
            let (below, above) = (figures[place.floor() as usize], figures[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}
