//! A scenario, played by real nodes in real time: its providers and requestors, its creates, and what it promises of
//! them. Everybody starts at once and can be reached by everybody, each pair over a link of its own delay. What only the
//! model can let happen is refused, not left out: churn, partitions, attacks, skewed clocks, lost messages.
use super::arrivals::Arrivals;
use super::figures::{Kind, Setup};
use super::ours::{LiveNode, Ours};
use super::{Counted, Fleet};
use crate::model::expect::Failure;
use crate::model::observe::{Minute, Summary, percentile};
use crate::model::scenario::{Expect, Scenario};
use crate::rng::Dice;
use node::api::types::{CreateEvent, CreateVm, ProviderQuery, VmActionBody, VmActionName, VmView};
use node::handle::NodeHandle;
use protocol::names::{IsolationWanted, VmName};
use protocol::units::{MemoryMib, Resources};
use protocol::{ErrorCode, Fault, PeerId};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// A rush: everybody within this.
const FLASH: Duration = Duration::from_secs(10);
/// Of a minute, nodes that look for everybody.
const ASKERS: usize = 3;
/// What a user's create waits for.
const CREATE_WITHIN: u64 = 60;

/// How it ended: nothing is promised of what cannot be seen from outside.
pub struct Played {
    pub summary: Summary,
    pub failures: Vec<Failure>,
}

/// What became of a create.
struct Made {
    ended: Instant,
    result: Result<VmView, Fault>,
}

struct Play<'a> {
    scenario: &'a Scenario,
    fleet: Ours,
    dice: Dice,
    creates: JoinSet<Made>,
    made: Vec<Made>,
    asked: usize,
    minutes: Vec<Minute>,
    counted: Vec<Counted>,
}

/// Plays it in this process, on a runtime of its own; `look` is shown every minute as it ends.
pub fn play(scenario: &Scenario, look: impl FnMut(&Minute)) -> Result<Played, Fault> {
    playable(scenario)?;
    super::runtime()?.block_on(async {
        let setup = Setup {
            providers: scenario.nodes.providers as usize,
            leaf: Some(scenario.leaf),
            delays: scenario.links.delays,
            vms: Some(scenario.nodes.vms),
            seed: scenario.seed,
            ..Setup::new(Kind::Ours, scenario.size() as usize)
        };
        let fleet = Ours::start(&setup, &Arrivals::new(setup.nodes, 0)).await?;
        let mut play = Play {
            scenario,
            counted: fleet.nodes().iter().map(LiveNode::counted).collect(),
            fleet,
            dice: Dice::new(scenario.seed),
            creates: JoinSet::new(),
            made: Vec::new(),
            asked: 0,
            minutes: Vec::new(),
        };
        let ended = play.run(look).await;
        play.creates.shutdown().await;
        play.fleet.stop().await?;
        ended
    })
}

fn playable(scenario: &Scenario) -> Result<(), Fault> {
    let asked = [
        ("[churn]", scenario.churn.is_some()),
        ("[partition]", scenario.partition.is_some()),
        ("[attack]", scenario.attack.is_some()),
        ("nodes.skew_s", scenario.nodes.skew_s > 0),
        ("links.loss", scenario.links.loss > 0),
    ];
    let not: Vec<&str> = asked.into_iter().filter(|(_, asked)| *asked).map(|(what, _)| what).collect();
    if !not.is_empty() {
        let message = format!("{} asks for {}, which only the model can let happen", scenario.name, not.join(" and "));
        return Err(Fault::invalid(message).hint("--engine model"));
    }
    Ok(())
}

/// The rest cannot be seen from outside a node.
fn seen_live(expect: &Expect) -> Expect {
    Expect {
        target_recall: None,
        cost_ratio: None,
        dead_share: None,
        first_accept: None,
        lookups: None,
        rounds_p99: None,
        ..*expect
    }
}

impl Play<'_> {
    async fn run(&mut self, mut look: impl FnMut(&Minute)) -> Result<Played, Fault> {
        let began = Instant::now();
        for minute in 0..self.scenario.minutes {
            let ends = began + MINUTE * (minute as u32 + 1);
            self.users(minute, ends).await?;
            let seen = self.observe(minute + 1).await?;
            look(&seen);
            self.minutes.push(seen);
        }
        let summary = self.summary();
        let failures = seen_live(&self.scenario.expect).failures(&summary);
        Ok(Played { summary, failures })
    }

    /// Lets this minute's creates happen, each at its time, and waits for its end.
    async fn users(&mut self, minute: u64, ends: Instant) -> Result<(), Fault> {
        let wanted = self.scenario.requests;
        let (starts, mut due) = (ends - MINUTE, Vec::new());
        if minute >= wanted.from_minute && wanted.per_minute > 0.0 {
            let mut at = self.exponential(MINUTE.as_secs_f64() / wanted.per_minute);
            while at < MINUTE {
                due.push(at);
                at += self.exponential(MINUTE.as_secs_f64() / wanted.per_minute);
            }
        }
        if minute == wanted.flash_minute {
            let within = FLASH.as_millis() as u64;
            due.extend((0..wanted.flash).map(|_| Duration::from_millis(self.dice.within(0..within))));
        }
        due.sort_unstable();
        for at in due {
            self.until(starts + at).await;
            self.create()?;
        }
        self.until(ends).await;
        Ok(())
    }

    /// Takes in what ends meanwhile.
    async fn until(&mut self, time: Instant) {
        loop {
            let made = tokio::time::timeout_at(time, self.creates.join_next());
            match made.await {
                Ok(Some(Ok(made))) => self.made.push(made),
                Ok(Some(Err(_))) => {}
                Ok(None) => return tokio::time::sleep_until(time).await,
                Err(_) => return,
            }
        }
    }

    fn exponential(&mut self, mean: f64) -> Duration {
        let unit = (self.dice.within(0..1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
        Duration::from_secs_f64(-unit.ln() * mean)
    }

    fn create(&mut self) -> Result<(), Fault> {
        let wanted = self.scenario.requests;
        let requestors: Vec<&LiveNode> = self.fleet.nodes().iter().filter(|live| !live.provides()).collect();
        let Some(at) = (!requestors.is_empty()).then(|| self.dice.index(requestors.len())) else { return Ok(()) };
        let handle = requestors[at].node.handle.clone();
        let abandoned = self.dice.percent(wanted.abandoned);
        self.asked += 1;
        let request = CreateVm {
            name: format!("vm-{}", self.asked).parse::<VmName>()?,
            resources: Resources::SMALL,
            image: "tiny".parse()?,
            provider: None,
            country: None,
            arch: None,
            max_price: None,
            backend: None,
            isolation: IsolationWanted::Any,
            duration_s: wanted.lease_s,
            or_less: false,
            allow_smaller: false,
            project: None,
            ssh_key: None,
            user_data: None,
            ports: Vec::new(),
            timeout_s: CREATE_WITHIN,
            wait: true,
        };
        let lifetime = self.exponential(wanted.lifetime_s as f64);
        self.creates.spawn(async move {
            let result = created(&handle, request).await;
            if let Some(vm) = result.as_ref().ok().filter(|_| !abandoned) {
                let (handle, id) = (handle.clone(), vm.id.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(lifetime).await;
                    let body = VmActionBody { force: true, ..VmActionName::Destroy.into() };
                    // Err: the node has stopped, and the run is over.
                    let _ = handle.act(&id, body).await;
                });
            }
            Made { ended: Instant::now(), result }
        });
        Ok(())
    }

    async fn observe(&mut self, minute: u64) -> Result<Minute, Fault> {
        let nodes = self.fleet.nodes();
        let counted: Vec<Counted> = nodes.iter().map(LiveNode::counted).collect();
        let mut seen =
            Minute { minute, nodes: nodes.len(), providers: self.fleet.providers().count(), ..Minute::default() };
        let seconds = MINUTE.as_secs_f64();
        for (way, of) in
            [|counted: &Counted| counted.bytes_out, |counted: &Counted| counted.bytes_in].iter().enumerate()
        {
            let pairs = counted.iter().zip(&self.counted);
            let mut each: Vec<f64> = pairs.map(|(now, was)| (of(now) - of(was)) as f64 / seconds).collect();
            seen.mean[way] = each.iter().sum::<f64>() / each.len().max(1) as f64;
            seen.p99[way] = percentile(&mut each, 99);
            seen.busiest[way] = each.last().copied().unwrap_or_default();
        }
        seen.deepest = self.fleet.providers().map(|live| live.stands().borrow().depth).max().unwrap_or(0);
        self.counted = counted;
        seen.recall = self.recall().await?;
        let lately = self.made.iter().filter(|made| made.ended.elapsed() < MINUTE);
        seen.asked = self.asked - self.minutes.iter().map(|minute| minute.asked).sum::<usize>();
        (seen.done, seen.failed) = lately.fold((0, 0), |(done, failed), made| match made.result {
            Ok(_) => (done + 1, failed),
            Err(_) => (done, failed + 1),
        });
        let mut discovered = self.discovered(|made| made.ended.elapsed() < MINUTE);
        seen.discover_p50_ms = percentile(&mut discovered, 50);
        seen.discover_p99_ms = percentile(&mut discovered, 99);
        Ok(seen)
    }

    /// Who has something to let and says so: a provider whose host is full has taken its advert back.
    fn advertised(&self) -> BTreeSet<PeerId> {
        let stands = |live: &&LiveNode| live.stands().borrow().lets > MemoryMib::default();
        self.fleet.providers().filter(stands).map(|live| live.peer).collect()
    }

    /// Of all that advertise, those that a node finds when it looks for all; some nodes look.
    async fn recall(&mut self) -> Result<f64, Fault> {
        let all = self.advertised();
        let query = ProviderQuery {
            isolation: Some(IsolationWanted::Any),
            limit: Some(self.fleet.providers().count().max(1)),
            ..ProviderQuery::default()
        };
        let (mut found, mut looked) = (0, 0);
        for _ in 0..ASKERS {
            let nodes = self.fleet.nodes();
            let asker = &nodes[self.dice.index(nodes.len())];
            let shown = asker.node.handle.providers(query.clone()).await?;
            // Who was let meanwhile is missed by nobody, and nobody finds himself by asking others.
            let mut sought = &all & &self.advertised();
            sought.remove(&asker.peer);
            found += shown.iter().filter(|view| sought.contains(&view.peer_id)).count();
            looked += sought.len();
        }
        Ok(if looked == 0 { 1.0 } else { found as f64 / looked as f64 })
    }

    fn discovered(&self, which: impl Fn(&Made) -> bool) -> Vec<u64> {
        let made = self.made.iter().filter(|made| which(made));
        made.filter_map(|made| made.result.as_ref().ok()).map(|vm| vm.timings_ms.discover).collect()
    }

    fn summary(&self) -> Summary {
        let scenario = self.scenario;
        let counted: Vec<&Minute> =
            self.minutes.iter().filter(|minute| minute.minute > scenario.expect.from_minute).collect();
        let most = |of: fn(&Minute) -> [f64; 2]| counted.iter().flat_map(|minute| of(minute)).fold(0.0, f64::max);
        let recalls = counted.iter().map(|minute| minute.recall);
        let done = self.made.iter().filter(|made| made.result.is_ok()).count();
        let mut summary = Summary {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            nodes: scenario.size(),
            minutes: self.minutes.len(),
            leaf: scenario.leaf,
            node_seconds: u64::from(scenario.size()) * self.minutes.len() as u64 * MINUTE.as_secs(),
            recall: recalls.clone().fold(1.0, f64::min),
            recall_mean: recalls.sum::<f64>() / counted.len().max(1) as f64,
            mean: most(|minute| minute.mean),
            p99: most(|minute| minute.p99),
            busiest: most(|minute| minute.busiest),
            deepest: self.minutes.last().map_or(0, |minute| minute.deepest),
            asked: self.asked,
            done,
            failed: self.made.len() - done,
            created: (!self.made.is_empty()).then(|| done as f64 / self.made.len() as f64),
            ..Summary::default()
        };
        for fault in self.made.iter().filter_map(|made| made.result.as_ref().err()) {
            *summary.failures.entry(fault.code.to_string()).or_default() += 1;
        }
        let mut discovered = self.discovered(|_| true);
        (summary.discover_p50_ms, summary.discover_p99_ms) =
            (percentile(&mut discovered, 50), percentile(&mut discovered, 99));
        let mut ready: Vec<u64> =
            self.made.iter().filter_map(|made| made.result.as_ref().ok()).map(|vm| vm.timings_ms.total).collect();
        (summary.ready_p50_ms, summary.ready_p99_ms) = (percentile(&mut ready, 50), percentile(&mut ready, 99));
        summary
    }
}

/// To its end, whatever that is.
async fn created(handle: &NodeHandle, request: CreateVm) -> Result<VmView, Fault> {
    let mut events = handle.create(request).await?;
    while let Some(event) = events.recv().await {
        match event {
            CreateEvent::Done { vm } => return Ok(*vm),
            CreateEvent::Failed { error } => return Err(error),
            CreateEvent::Stage { .. } | CreateEvent::Notice { .. } => {}
        }
    }
    Err(Fault::new(ErrorCode::Internal, "the node ended before the create did"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_played_is_refused_by_name() {
        let scenario = |more: &str| {
            let head = "name = \"x\"\nabout = \"y\"\nminutes = 1\n[nodes]\nproviders = 2\n";
            Scenario::read(&format!("{head}{more}")).unwrap()
        };
        assert!(playable(&scenario("[links]\njitter = 10\n")).is_ok());
        let refused = playable(&scenario("skew_s = 5\n[churn]\npercent_per_minute = 5\n")).unwrap_err();
        assert!(refused.message.contains("[churn] and nodes.skew_s"), "{refused}");
    }
}
