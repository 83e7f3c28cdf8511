//! What the person in front of `replicated-redis-operator local` sees.
//!
//! Events are lines that stay. Below them, in a terminal, stands one line per instance that is redrawn in place; where the
//! output is no terminal the table is printed when something in it has changed that is worth a line (not an offset that
//! moves on) and has settled: the steps between are told by the events. With `--log-format json` everything is one JSON
//! object per line.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long a state must last to be printed as a table.
const SETTLED: Duration = Duration::from_millis(300);

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// One instance, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: String,
    /// `master`, `replica`, `awaiting`, or what keeps it from having a role: `starting`, `down`, `silent`.
    pub role: String,
    /// A replica's link to its master: `up`, `down`, `syncing`; `-` where there is none.
    pub link: String,
    /// End of its history.
    pub offset: Option<u64>,
    /// Bytes behind the master.
    pub lag: Option<u64>,
    pub port: Option<u16>,
    pub pid: Option<u32>,
    /// What a person should know beyond the columns; mostly empty.
    pub note: String,
}

/// Everything that the status shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    pub name: String,
    pub epoch: u64,
    /// One sentence: well, or what it is waiting for.
    pub summary: String,
    pub instances: Vec<Row>,
}

/// The table as lines: a head, then one line per instance.
pub fn table(view: &View) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or("-".to_string(), |n| n.to_string());
    let mut cells = vec![["INSTANCE", "ROLE", "LINK", "OFFSET", "LAG", "PORT", "PID", ""].map(str::to_string)];
    cells.extend(view.instances.iter().map(|row| {
        [
            row.name.clone(),
            row.role.clone(),
            row.link.clone(),
            number(row.offset),
            number(row.lag),
            number(row.port.map(u64::from)),
            number(row.pid.map(u64::from)),
            row.note.clone(),
        ]
    }));
    let mut widths = [0; 8];
    for line in &cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let numeric = |column: usize| (3..=6).contains(&column);
    let mut lines = vec![format!("{}: {} (epoch {})", view.name, view.summary, view.epoch)];
    lines.extend(cells.iter().map(|line| {
        let padded = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if numeric(column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    }));
    lines
}

/// The output, and what stands on it.
#[derive(Debug)]
pub struct Screen<W: Write = io::Stdout> {
    out: W,
    format: LogFormat,
    /// The output's width when it is a terminal.
    columns: Option<usize>,
    /// Lines of the table that stand below the last event.
    drawn: usize,
    /// The last view, and since when it is the same but for its numbers.
    last: Option<(View, Instant)>,
    /// The last view that was printed as lines.
    printed: Option<View>,
}

impl Screen {
    pub fn stdout(format: LogFormat) -> Screen {
        let out = io::stdout();
        let columns = (format == LogFormat::Text && out.is_terminal()).then(terminal_columns);
        Screen::new(out, format, columns)
    }
}

/// What the shell has exported, else the width that every terminal has.
fn terminal_columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(80)
}

impl<W: Write> Screen<W> {
    pub fn new(out: W, format: LogFormat, columns: Option<usize>) -> Screen<W> {
        Screen { out, format, columns, drawn: 0, last: None, printed: None }
    }

    /// A line without a time, for the greeting. Nothing in JSON.
    pub fn line(&mut self, text: &str) {
        if self.format == LogFormat::Text {
            self.above_the_table(text);
        }
    }

    /// Something that happened, at `time`.
    pub fn event(&mut self, time: &str, subject: &str, text: &str) {
        match self.format {
            LogFormat::Text => self.above_the_table(&format!("{time}  {subject}: {text}")),
            LogFormat::Json => {
                let object = serde_json::json!({ "time": time, "subject": subject, "event": text });
                self.print(&format!("{object}\n"));
            }
        }
    }

    /// The state at `now`, for a reader at `time`.
    pub fn status(&mut self, time: &str, view: &View, now: Instant) {
        let same = |other: &View| gist(other) == gist(view);
        let since = self.last.as_ref().filter(|(last, _)| same(last)).map_or(now, |(_, since)| *since);
        let moved = self.last.as_ref().is_none_or(|(last, _)| last != view);
        self.last = Some((view.clone(), since));
        if self.columns.is_some() {
            if moved {
                self.redraw("");
            }
        } else if now.duration_since(since) >= SETTLED && !self.printed.as_ref().is_some_and(same) {
            self.printed = Some(view.clone());
            match self.format {
                LogFormat::Text => self.print(&format!("{}\n", table(view).join("\n"))),
                LogFormat::Json => {
                    let object = serde_json::json!({ "time": time, "status": view });
                    self.print(&format!("{object}\n"));
                }
            }
        }
    }

    /// Leaves the last table standing, for the end of the program.
    pub fn finish(&mut self) {
        self.drawn = 0;
        self.last = None;
    }

    fn above_the_table(&mut self, text: &str) {
        match self.columns {
            Some(_) => self.redraw(&format!("{text}\n")),
            None => self.print(&format!("{text}\n")),
        }
    }

    /// Takes the table away, prints `above`, and puts the table back below it.
    fn redraw(&mut self, above: &str) {
        let columns = self.columns.unwrap_or(80);
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to the table's first line, and clear from there to the end of the screen.
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        text.push_str(above);
        let lines = self.last.as_ref().map(|(view, _)| table(view)).unwrap_or_default();
        for line in &lines {
            // A line that wraps would take two rows and spoil the count.
            text.extend(line.chars().take(columns.saturating_sub(1)));
            text.push('\n');
        }
        self.drawn = lines.len();
        self.print(&text);
    }

    fn print(&mut self, text: &str) {
        // A reader that has gone (`| head`) does not stop the datastore.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

/// Roles and links as events: each is told when it has lasted for a moment, so that the steps of a failover do not hide
/// what has come of it. Starts and ends are told by the supervisor.
#[derive(Debug, Default)]
pub struct Tidings {
    told: BTreeMap<String, String>,
    pending: BTreeMap<String, (String, Instant)>,
}

impl Tidings {
    /// What is news at `now`: instance and text.
    pub fn settled(&mut self, rows: &[Row], now: Instant) -> Vec<(String, String)> {
        let mut news = Vec::new();
        for row in rows {
            let text = words(row);
            let (pending, since) = self.pending.entry(row.name.clone()).or_insert_with(|| (text.clone(), now));
            if *pending != text {
                (*pending, *since) = (text, now);
            } else if now.duration_since(*since) >= SETTLED && self.told.get(&row.name) != Some(&text) {
                self.told.insert(row.name.clone(), text.clone());
                if !matches!(row.role.as_str(), "down" | "starting") {
                    news.push((row.name.clone(), text));
                }
            }
        }
        news
    }
}

fn words(row: &Row) -> String {
    let link = if row.link == "-" { String::new() } else { format!(", link {}", row.link) };
    let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
    format!("{}{link}{note}", row.role)
}

/// Epoch, summary, and of each instance name, role, link and note.
type Gist<'v> = (u64, &'v str, Vec<(&'v str, &'v str, &'v str, &'v str)>);
/// What must change to be worth a line: not the numbers that always move.
fn gist(view: &View) -> Gist<'_> {
    let rows = view.instances.iter().map(|r| (r.name.as_str(), r.role.as_str(), r.link.as_str(), r.note.as_str()));
    (view.epoch, &view.summary, rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, role: &str, link: &str, offset: u64, lag: Option<u64>) -> Row {
        Row {
            name: name.to_string(),
            role: role.to_string(),
            link: link.to_string(),
            offset: Some(offset),
            lag,
            port: Some(20_001),
            pid: Some(77),
            note: String::new(),
        }
    }

    fn view(offset: u64) -> View {
        View {
            name: "quickstart".to_string(),
            epoch: 3,
            summary: "1 master, 1 of 1 replicas ready".to_string(),
            instances: vec![
                row("quickstart-master-0", "master", "-", offset, None),
                row("quickstart-replica-0", "replica", "up", offset - 10, Some(10)),
            ],
        }
    }

    fn printed(format: LogFormat, columns: Option<usize>, f: impl FnOnce(&mut Screen<Vec<u8>>)) -> String {
        let mut screen = Screen::new(Vec::new(), format, columns);
        f(&mut screen);
        String::from_utf8(screen.out).unwrap()
    }

    #[test]
    fn the_table_is_aligned() {
        let expected = "\
quickstart: 1 master, 1 of 1 replicas ready (epoch 3)
INSTANCE              ROLE     LINK  OFFSET  LAG   PORT  PID
quickstart-master-0   master   -       1000    -  20001   77
quickstart-replica-0  replica  up       990   10  20001   77";
        assert_eq!(table(&view(1000)).join("\n"), expected);
    }

    #[test]
    fn without_a_terminal_a_moving_offset_is_no_news() {
        let text = printed(LogFormat::Text, None, |screen| {
            let start = Instant::now();
            let mut at = |ms: u64, view: &View| screen.status("t", view, start + Duration::from_millis(ms));
            let mut down = view(3000);
            down.instances[1].link = "down".to_string();
            let mut passing = down.clone();
            passing.summary = "electing".to_string();
            at(0, &view(1000));
            at(300, &view(1000));
            at(600, &view(4444));
            at(700, &passing);
            at(800, &down);
            at(1050, &down);
            at(1100, &down);
        });
        assert!(!text.contains("electing"), "{text}");
        assert_eq!(text.matches("INSTANCE").count(), 2, "{text}");
        assert!(!text.contains("4444"), "{text}");
        assert!(text.contains("down"), "{text}");
    }

    #[test]
    fn in_a_terminal_the_table_stays_below_the_events() {
        let text = printed(LogFormat::Text, Some(200), |screen| {
            let now = Instant::now();
            screen.status("t", &view(1000), now);
            screen.event("12:00:00.000", "quickstart-master-0", "was killed (signal 9)");
            screen.status("t", &view(2000), now);
        });
        let up_four = "\x1b[4A\x1b[J";
        let parts: Vec<&str> = text.split(up_four).collect();
        assert_eq!(parts.len(), 3, "{text:?}");
        assert!(parts[1].starts_with("12:00:00.000  quickstart-master-0: was killed (signal 9)\nquickstart: 1 master"));
        assert!(parts[2].contains("2000"));
    }

    #[test]
    fn a_narrow_terminal_cuts_lines() {
        let text = printed(LogFormat::Text, Some(20), |screen| {
            screen.status("t", &view(1000), Instant::now());
        });
        assert!(text.lines().all(|line| line.chars().count() < 20), "{text}");
    }

    #[test]
    fn a_link_that_was_down_for_a_moment_is_no_event() {
        let start = Instant::now();
        let mut tidings = Tidings::default();
        let mut at = |ms: u64, link: &str| {
            let rows = [row("x-replica-0", "replica", link, 1, None)];
            let told = tidings.settled(&rows, start + Duration::from_millis(ms));
            told.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(";")
        };
        assert_eq!(at(0, "down"), "");
        assert_eq!(at(100, "up"), "");
        assert_eq!(at(400, "up"), "replica, link up");
        assert_eq!(at(500, "down"), "");
        assert_eq!(at(600, "up"), "");
        assert_eq!(at(900, "up"), "");
        assert_eq!(at(1000, "down"), "");
        assert_eq!(at(1300, "down"), "replica, link down");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = printed(LogFormat::Json, None, |screen| {
            screen.line("welcome");
            screen.event("2026-11-20T12:00:00Z", "x-master-0", "said \"no\"");
            let now = Instant::now();
            screen.status("2026-11-20T12:00:01Z", &view(1000), now);
            screen.status("2026-11-20T12:00:01Z", &view(1000), now + SETTLED);
        });
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["event"], "said \"no\"");
        assert_eq!(objects[1]["status"]["instances"][1]["lag"], 10);
    }
}
