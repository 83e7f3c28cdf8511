//! Log lines in Redis's form: `PID:ROLE date time.ms mark message`.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogLevel;

/// `M` master, `S` replica, `X` awaiting.
static ROLE: AtomicU8 = AtomicU8::new(b'M');

/// The letter in front of the lines to come.
pub fn set_role(letter: u8) {
    ROLE.store(letter, Ordering::Relaxed);
}

struct RedisLines;

impl<S, N> FormatEvent<S, N> for RedisLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mark = match *event.metadata().level() {
            Level::ERROR | Level::WARN => '#',
            Level::INFO => '*',
            Level::DEBUG => '-',
            Level::TRACE => '.',
        };
        let role = char::from(ROLE.load(Ordering::Relaxed));
        write!(out, "{}:{role} {} {mark} ", std::process::id(), date(crate::clock::unix_ms()))?;
        ctx.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// `20 Nov 2026 12:00:00.000`, UTC.
fn date(unix_ms: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Civil date from days since 1970 (H. Hinnant's algorithm).
    let z = days as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{day:02} {} {year} {h:02}:{m:02}:{s:02}.{:03}", MONTHS[month as usize - 1], ms % 1000)
}

/// Changes the level of the log that runs.
type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::TRACE,
        LogLevel::Verbose => LevelFilter::DEBUG,
        LogLevel::Notice => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Nothing => LevelFilter::OFF,
    }
}

/// CONFIG SET loglevel.
pub fn set_level(level: LogLevel) {
    if let Some(set) = SET_LEVEL.get() {
        set(filter(level));
    }
}

/// Starts logging to a file, or else to standard output.
pub fn start(level: LogLevel, logfile: Option<&std::path::Path>) -> std::io::Result<()> {
    let (level, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).event_format(RedisLines);
    let registry = tracing_subscriber::registry().with(level);
    match logfile {
        None => registry.with(lines).init(),
        Some(path) => {
            let file = std::fs::File::options().create(true).append(true).open(path)?;
            registry.with(lines.with_writer(std::sync::Mutex::new(file))).init();
        }
    }
    // The log of a process is started once; if it ends, nothing is left to change.
    SET_LEVEL.get_or_init(|| Box::new(move |level| drop(handle.reload(level))));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_civil() {
        assert_eq!(super::date(0), "01 Jan 1970 00:00:00.000");
        assert_eq!(super::date(1_709_208_000_123), "29 Feb 2024 12:00:00.123");
    }
}
