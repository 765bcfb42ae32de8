//! A moment as a calendar date, and Python's `strftime` for it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment in UTC by the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    year: u64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: u64,
    /// 0 is Sunday.
    weekday: usize,
    /// 1 to 366.
    yearday: u64,
    /// Seconds since midnight.
    second: u64,
}

impl From<SystemTime> for Civil {
    /// A moment before 1970 counts as the start of 1970.
    fn from(moment: SystemTime) -> Self {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let days = since.as_secs() / 86_400;
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        // 400 years are 146,097 days; what remains is counted out.
        let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
        while left >= 365 + u64::from(leap(year)) {
            left -= 365 + u64::from(leap(year));
            year += 1;
        }
        let (yearday, mut month) = (left + 1, 1);
        let february = 28 + u64::from(leap(year));
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if left < length {
                break;
            }
            left -= length;
            month += 1;
        }
        let weekday = ((days + 4) % 7) as usize;
        Self { year, month, day: left + 1, weekday, yearday, second: since.as_secs() % 86_400 }
    }
}

impl Civil {
    /// `strftime` in the C locale. The directives that templates use are known; others are errors.
    pub(super) fn format(&self, format: &str) -> Result<String, Error> {
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = chars.next().unwrap_or('%');
            let padded = directive != '-';
            if !padded {
                directive = chars.next().unwrap_or('-');
            }
            self.directive(directive, padded, &mut text)?;
        }
        Ok(text)
    }

    fn directive(&self, directive: char, padded: bool, text: &mut String) -> Result<(), Error> {
        let (hour, minute) = (self.second / 3600, self.second / 60 % 60);
        let month = MONTHS[self.month - 1];
        let weekday = DAYS[self.weekday];
        let (number, width) = match directive {
            'Y' => (self.year, 4),
            'y' => (self.year % 100, 2),
            'm' => (self.month as u64, 2),
            'd' => (self.day, 2),
            'j' => (self.yearday, 3),
            'H' => (hour, 2),
            'I' => ((hour + 11) % 12 + 1, 2),
            'M' => (minute, 2),
            'S' => (self.second % 60, 2),
            'B' => return push(text, month),
            'b' | 'h' => return push(text, &month[..3]),
            'A' => return push(text, weekday),
            'a' => return push(text, &weekday[..3]),
            'p' => return push(text, if hour < 12 { "AM" } else { "PM" }),
            'Z' => return push(text, "UTC"),
            'z' => return push(text, "+0000"),
            '%' => return push(text, "%"),
            'F' => return push(text, &self.format("%Y-%m-%d")?),
            'T' => return push(text, &self.format("%H:%M:%S")?),
            other => {
                let message = format!("strftime_now: %{other} is not understood");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        let width = if padded { width } else { 0 };
        let _ = write!(text, "{number:0width$}");
        Ok(())
    }
}

fn push(text: &mut String, words: &str) -> Result<(), Error> {
    text.push_str(words);
    Ok(())
}
