//! The table of results.

use std::fmt;

/// What a figure has to be, as a bound on the ratio or on our own figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Ours divided by theirs is no more.
    Ratio(f64),
    /// Ours divided by theirs is no less.
    RatioAtLeast(f64),
    /// Ours alone is no more.
    Own(f64),
    None,
}

#[derive(Debug, Clone)]
struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    theirs: Option<f64>,
    goal: Goal,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a row, and says it at once.
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        theirs: Option<f64>,
        goal: Goal,
    ) {
        let row = Row { what: what.into(), unit, ours, theirs, goal };
        eprintln!("{row}");
        self.rows.push(row);
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.theirs.filter(|theirs| *theirs > 0.0).map(|theirs| self.ours / theirs)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let theirs = self.theirs.map_or("-".to_string(), |n| format!("{n:.3}"));
        let ratio = self.ratio().map_or("-".to_string(), |n| format!("{n:.2}"));
        let (goal, met) = match self.goal {
            Goal::Ratio(bound) => (format!("ratio ≤ {bound}"), self.ratio().is_some_and(|ratio| ratio <= bound)),
            Goal::RatioAtLeast(bound) => (format!("ratio ≥ {bound}"), self.ratio().is_some_and(|ratio| ratio >= bound)),
            Goal::Own(bound) => (format!("≤ {bound} {}", self.unit), self.ours <= bound),
            Goal::None => ("-".to_string(), true),
        };
        let verdict = match (self.goal, met) {
            (Goal::None, _) => "",
            (_, true) => "ok",
            (_, false) => "MISS",
        };
        write!(f, "| {} | {} | {:.3} | {theirs} | {ratio} | {goal} | {verdict} |", self.what, self.unit, self.ours)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | unit | ours | redis-server | ratio | goal | |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The standard error of the median of `values`, as a share of it, told from how they scatter.
pub(crate) fn uncertainty(values: &mut [f64]) -> f64 {
    // Of values that scatter normally, half lie within 1.349 standard deviations, and a median is off by 1.253 times what
    // a mean is.
    let deviation = (percentile(values, 0.75) - percentile(values, 0.25)) / 1.349;
    1.253 * deviation / (values.len() as f64).sqrt() / percentile(values, 0.5)
}

/// The value below which a share of `values` lies.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}
