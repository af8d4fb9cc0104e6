//! When to ask a server again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{Rng, RngExt};

/// How often and after what pauses to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Requests in all, the first included.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each.
    pub first: Duration,
    /// The longest pause, whatever the server wishes.
    pub longest: Duration,
    /// No request begins later than this after the first.
    pub total: Duration,
}

/// The failures of one request so far.
#[derive(Debug)]
pub struct Failures {
    retry: Retry,
    since: Instant,
    count: u32,
}

impl Retry {
    /// Begins to ask.
    pub fn begin(&self) -> Failures {
        Failures {
            retry: *self,
            since: Instant::now(),
            count: 0,
        }
    }

    /// The pause after failure number `failures` (from 1): what the server wishes, else exponential with jitter, so that
    /// clients that failed together do not come back together.
    fn pause(&self, failures: u32, wished: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let pause = wished.unwrap_or_else(|| doubled.min(self.longest).mul_f64(rng.random_range(0.5..=1.0)));
        pause.min(self.longest)
    }
}

impl Failures {
    /// How many there were.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Counts a failure: the pause until the next request, or none where it was the last.
    pub fn pause(&mut self, wished: Option<Duration>, rng: &mut impl Rng) -> Option<Duration> {
        self.count += 1;
        let pause = self.retry.pause(self.count, wished, rng);
        let later = self.since.elapsed().saturating_add(pause);
        (self.count < self.retry.attempts && later <= self.retry.total).then_some(pause)
    }
}

/// The pause that a `Retry-After` header asks for: seconds, or a date.
pub fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(http_date(header)?))?;
    // A date in the past: now.
    Some(at.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers may send (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let fields: Vec<&str> = text.split_once(", ")?.1.split(' ').collect();
    let [day, month, year, time, "GMT"] = fields[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|&name| name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let time: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = time[..] else {
        return None;
    };
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Days since 1 March of year 0: leap days come last in a year that begins in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(retry_after(" 12 ", now), Some(Duration::from_secs(12)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
            Some(Duration::from_secs(7))
        );
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(http_date("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        for bad in [
            "",
            "-1",
            "soon",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "NaN",
        ] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn pauses_double_with_jitter_and_are_capped() {
        let retry = Retry {
            attempts: 6,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
            total: Duration::from_secs(60),
        };
        let mut rng = Seed::new(1).stream("test");
        for (failures, most) in [(1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (90, 10.0)] {
            let pause = retry.pause(failures, None, &mut rng).as_secs_f64();
            assert!(pause <= most && pause >= most / 2.0, "{failures}: {pause}");
        }
        assert_eq!(
            retry.pause(1, Some(Duration::from_secs(3)), &mut rng),
            Duration::from_secs(3)
        );
        assert_eq!(
            retry.pause(1, Some(Duration::from_secs(1 << 40)), &mut rng),
            Duration::from_secs(10)
        );
    }

    #[test]
    fn attempts_and_time_have_an_end() {
        let mut retry = Retry {
            attempts: 3,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
            total: Duration::from_secs(60),
        };
        let mut rng = Seed::new(1).stream("test");
        let mut failures = retry.begin();
        assert!(failures.pause(None, &mut rng).is_some() && failures.pause(None, &mut rng).is_some());
        assert_eq!((failures.pause(None, &mut rng), failures.count()), (None, 3));
        retry.total = Duration::from_secs(5);
        let mut failures = retry.begin();
        assert!(failures.pause(Some(Duration::from_secs(4)), &mut rng).is_some());
        assert_eq!(failures.pause(Some(Duration::from_secs(6)), &mut rng), None);
    }
}
