//! Our node beside the bare library, at several sizes, and what to make of it.
use super::figures::{Figures, Kind, Setup};
use super::process;
use protocol::Fault;
use serde::{Deserialize, Serialize};

/// A connection of the bare library costs about this at each end, in bytes, and there are N² of them.
const BARE_CONNECTION: u64 = 90 << 10;
/// Of the machine's free memory, what a measurement may take: others live here too.
const SHARE: f64 = 0.6;

/// What to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub nodes: Vec<usize>,
    pub kinds: Vec<Kind>,
    /// The rest of every setup.
    pub like: Setup,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { nodes: vec![50, 200, 500], kinds: Kind::ALL.to_vec(), like: Setup::new(Kind::Ours, 0) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    Measured(Box<Figures>),
    /// It was not tried, or did not end well; and why.
    Not {
        setup: Setup,
        why: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rows: Vec<Row>,
}

/// Measures every kind at every size, one after the other. `run` measures one, best in a process of its own: what an
/// earlier fleet has given back stays with the process, and a later one would seem to need no memory. `tell` hears of
/// each row as it is there.
pub fn compare(
    plan: &Plan,
    mut run: impl FnMut(&Setup) -> Result<Figures, Fault>,
    mut tell: impl FnMut(&Row),
) -> Report {
    let mut report = Report::default();
    for nodes in &plan.nodes {
        for kind in &plan.kinds {
            let setup = Setup { kind: *kind, nodes: *nodes, ..plan.like.clone() };
            let row = match too_large(&setup).map_or_else(|| run(&setup), Err) {
                Ok(figures) => Row::Measured(Box::new(figures)),
                Err(fault) => Row::Not { setup, why: fault.message },
            };
            tell(&row);
            report.rows.push(row);
        }
    }
    report
}

fn too_large(setup: &Setup) -> Option<Fault> {
    if setup.kind != Kind::Bare {
        return None;
    }
    let (needed, free) = ((setup.nodes * setup.nodes) as u64 * BARE_CONNECTION, process::available().ok()?);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let message = format!("{setup} would need about {:.1} GiB, of {:.1} that are free", gib(needed), gib(free));
    (needed as f64 > free as f64 * SHARE).then(|| Fault::new(protocol::ErrorCode::Exhausted, message))
}

impl Report {
    pub fn of(&self, kind: Kind, nodes: usize) -> Option<&Figures> {
        self.rows.iter().find_map(|row| match row {
            Row::Measured(figures) if figures.setup.kind == kind && figures.setup.nodes == nodes => Some(&**figures),
            _ => None,
        })
    }

    /// A table for people: a line for each row, then ours as a share of each other kind.
    pub fn table(&self) -> String {
        let mut lines = vec![HEAD.join(" | "), HEAD.map(|_| "---").join(" | ")];
        for row in &self.rows {
            lines.push(match row {
                Row::Measured(figures) => cells(figures).join(" | "),
                Row::Not { setup, why } => format!("{} | {} | not measured: {why}", setup.nodes, setup.kind.as_str()),
            });
        }
        let ours = self.rows.iter().filter_map(|row| match row {
            Row::Measured(figures) if figures.setup.kind == Kind::Ours => Some(figures),
            _ => None,
        });
        for ours in ours {
            for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Ours) {
                let other = self.of(kind, ours.setup.nodes);
                lines.extend(other.map(|other| ratios(ours, other).join(" | ")));
            }
        }
        lines.into_iter().map(|line| format!("| {line} |\n")).collect()
    }
}

const HEAD: [&str; 15] = [
    "N",
    "who",
    "t50 ms",
    "t99 ms",
    "t100 ms",
    "reached",
    "copies",
    "RSS/node MiB",
    "connections",
    "max",
    "joined in s",
    "join CPU s/node",
    "join KiB/node",
    "CPU ms/s/node",
    "B/s/node",
];

fn cells(figures: &Figures) -> Vec<String> {
    let ms = |time: Option<f64>| time.map_or("–".to_owned(), |time| format!("{time:.0}"));
    vec![
        figures.setup.nodes.to_string(),
        figures.setup.kind.as_str().to_owned(),
        ms(figures.t50_ms),
        ms(figures.t99_ms),
        ms(figures.t100_ms),
        format!("{:.2} %", figures.reached * 100.0),
        format!("{:.1}", figures.copies),
        format!("{:.2}", figures.rss_mib),
        format!("{:.1}", figures.connections_mean),
        figures.connections_max.to_string(),
        format!("{:.0}", figures.join_s),
        format!("{:.3}", figures.join_cpu_s),
        format!("{:.0}", figures.join_kib),
        format!("{:.2}", figures.cpu_ms_per_s),
        format!("{:.0}", figures.bytes_per_s),
    ]
}

fn ratios(ours: &Figures, other: &Figures) -> Vec<String> {
    let share = |ours: f64, other: f64| if other > 0.0 { format!("{:.2}×", ours / other) } else { "–".to_owned() };
    let time = |pick: fn(&Figures) -> Option<f64>| match (pick(ours), pick(other)) {
        (Some(ours), Some(other)) => share(ours, other),
        _ => "–".to_owned(),
    };
    let of = |pick: fn(&Figures) -> f64| share(pick(ours), pick(other));
    vec![
        ours.setup.nodes.to_string(),
        format!("ours / {}", other.setup.kind.as_str()),
        time(|figures| figures.t50_ms),
        time(|figures| figures.t99_ms),
        time(|figures| figures.t100_ms),
        String::new(),
        of(|figures| figures.copies),
        of(|figures| figures.rss_mib),
        of(|figures| figures.connections_mean),
        of(|figures| figures.connections_max as f64),
        of(|figures| figures.join_s),
        of(|figures| figures.join_cpu_s),
        of(|figures| figures.join_kib),
        of(|figures| figures.cpu_ms_per_s),
        of(|figures| figures.bytes_per_s),
    ]
}
