//! The model beside the live engine, both with the same links, at two sizes: at the first each figure of the model is
//! fitted by one factor, at the second what it then says is compared with what was measured.
use super::figures::{Figures, Kind, Setup};
use super::lookups::{LookupPlan, Lookups};
use crate::model::trial::{Announced, Fleet, LookedUp, Trial};
use protocol::Fault;

/// Off by at most this share: figures that count, and times.
const COUNTS_WITHIN: f64 = 0.10;
const TIMES_WITHIN: f64 = 0.20;

/// One figure of both, at both sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub what: &'static str,
    pub within: f64,
    /// At the size that it is fitted at, and at the one that is predicted.
    pub live: [f64; 2],
    pub model: [f64; 2],
}

impl Line {
    /// What the model's figure is to be multiplied with.
    pub fn factor(&self) -> f64 {
        if self.model[0] > 0.0 { self.live[0] / self.model[0] } else { 1.0 }
    }
    pub fn predicted(&self) -> f64 {
        self.model[1] * self.factor()
    }
    /// How far what was predicted is off, as a share of what was measured.
    pub fn off(&self) -> f64 {
        if self.live[1] > 0.0 { self.predicted() / self.live[1] - 1.0 } else { self.predicted() }
    }
    pub fn is_within(&self) -> bool {
        self.off().abs() <= self.within
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    pub sizes: [usize; 2],
    pub lines: Vec<Line>,
}

/// What is run at each size: adverts that are gossiped in a mesh of one board, and adverts that are put and looked for
/// in a tree.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub nodes: [usize; 2],
    pub lookups: usize,
}

/// `measure` runs a live setup, `look_up` a live plan; each best in a process of its own.
pub fn calibrate(
    sizes: &Sizes,
    mut measure: impl FnMut(&Setup) -> Result<Figures, Fault>,
    mut look_up: impl FnMut(&LookupPlan) -> Result<Lookups, Fault>,
    mut tell: impl FnMut(String),
) -> Result<Calibration, Fault> {
    let (mut announced, mut looked) = (Vec::new(), Vec::new());
    for nodes in sizes.nodes {
        let setup = Setup::new(Kind::Ours, nodes);
        let model = Trial::new(&fleet(&setup)).announce(setup.messages, setup.spacing_ms);
        let live = measure(&setup)?;
        tell(format!("{nodes} nodes, gossip, live:  {live:?}\n{nodes} nodes, gossip, model: {model:?}"));
        announced.push((live, model));
    }
    for nodes in sizes.nodes {
        let plan = LookupPlan::new(nodes, sizes.lookups);
        let grown = Trial::new(&fleet(&plan.setup)).look_up(plan.lookups, plan.at_once);
        let model = grown.ok_or_else(|| Fault::internal(format!("no tree of {nodes} nodes has grown in the model")))?;
        let live = look_up(&plan)?;
        tell(format!("{nodes} nodes, tree, live:  {live:?}\n{nodes} nodes, tree, model: {model:?}"));
        looked.push((live, model));
    }
    let mut lines = Vec::new();
    let mut line = |what, within, live: [f64; 2], model: [f64; 2]| lines.push(Line { what, within, live, model });
    let figures = |of: fn(&Figures) -> f64| [of(&announced[0].0), of(&announced[1].0)];
    let said = |of: fn(&Announced) -> f64| [of(&announced[0].1), of(&announced[1].1)];
    line("gossip: t50 ms", TIMES_WITHIN, figures(|f| f.t50_ms.unwrap_or(0.0)), said(|f| f.t50_ms));
    line("gossip: t99 ms", TIMES_WITHIN, figures(|f| f.t99_ms.unwrap_or(0.0)), said(|f| f.t99_ms));
    line("gossip: reached", COUNTS_WITHIN, figures(|f| f.reached), said(|f| f.reached));
    line("gossip: copies", COUNTS_WITHIN, figures(|f| f.copies), said(|f| f.copies));
    line("gossip: B/s/node", COUNTS_WITHIN, figures(|f| f.bytes_per_s), said(|f| f.bytes_per_s));
    line("gossip: requests/s/node", COUNTS_WITHIN, figures(|f| f.requests_per_s), said(|f| f.requests_per_s));
    let lookups = |of: fn(&Lookups) -> f64| [of(&looked[0].0), of(&looked[1].0)];
    let found = |of: fn(&LookedUp) -> f64| [of(&looked[0].1), of(&looked[1].1)];
    let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
    line("tree: lookup p50 ms", TIMES_WITHIN, lookups(|l| l.p50_ms), found(|l| l.p50_ms));
    line("tree: lookup p99 ms", TIMES_WITHIN, lookups(|l| l.p99_ms), found(|l| l.p99_ms));
    line("tree: put p50 ms", TIMES_WITHIN, lookups(|l| l.put_p50_ms), found(|l| l.put_p50_ms));
    let of_live = [0, 1].map(|at: usize| share(looked[at].0.found, looked[at].0.made));
    let of_model = [0, 1].map(|at: usize| share(looked[at].1.found, looked[at].1.made));
    line("tree: found", COUNTS_WITHIN, of_live, of_model);
    line("tree: depth", COUNTS_WITHIN, lookups(|l| l.depth.into()), found(|l| l.depth.into()));
    line("tree: requests/lookup", COUNTS_WITHIN, lookups(|l| l.requests), found(|l| l.requests));
    line("tree: KiB/lookup", COUNTS_WITHIN, lookups(|l| l.kib), found(|l| l.kib));
    Ok(Calibration { sizes: sizes.nodes, lines })
}

/// The model's own word for it.
fn fleet(setup: &Setup) -> Fleet {
    Fleet {
        nodes: setup.nodes as u32,
        providers: setup.providers as u32,
        leaf: setup.leaf.unwrap_or(protocol::shard::LEAF),
        delays: setup.delays,
        seed: setup.seed,
    }
}

impl Calibration {
    pub fn is_within(&self) -> bool {
        self.lines.iter().all(Line::is_within)
    }

    pub fn table(&self) -> String {
        let [fit, predict] = self.sizes;
        let mut table = format!(
            "| figure | live, {fit} | model, {fit} | factor | live, {predict} | model × factor, {predict} | off | within |\n"
        );
        table.push_str("|---|---|---|---|---|---|---|---|\n");
        for line in &self.lines {
            table.push_str(&format!(
                "| {} | {} | {} | {:.2} | {} | {} | {:+.0} % | {} |\n",
                line.what,
                short(line.live[0]),
                short(line.model[0]),
                line.factor(),
                short(line.live[1]),
                short(line.predicted()),
                line.off() * 100.0,
                if line.is_within() { "yes" } else { "**no**" },
            ));
        }
        table
    }
}

/// As many digits as say something.
fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_fitted_at_one_size_and_judged_at_the_other() {
        let line = Line { what: "x", within: 0.1, live: [20.0, 42.0], model: [10.0, 20.0] };
        assert_eq!((line.factor(), line.predicted()), (2.0, 40.0));
        assert!(line.is_within() && (line.off() + 2.0 / 42.0).abs() < 1e-9);
        assert!(!Line { live: [20.0, 50.0], ..line.clone() }.is_within());
        assert!(!Line { live: [0.0, 50.0], ..line }.is_within(), "what is 0 at one size predicts nothing");
    }
}
