//! `golemnode events`: what has happened on this node.
use crate::args::Format;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{dash, escaped, print, table};
use clap::Args;
use node::api::types::EventView;
use protocol::Fault;

#[derive(Args)]
pub struct EventsArgs {
    /// Only those after this id
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

pub fn run(context: &Context, args: &EventsArgs) -> Outcome {
    let node = context.node()?;
    let events = context.block_on(async { node.events(args.after, args.limit).await })?;
    if context.format() != Format::Json {
        return context.show(&events, || text(&events));
    }
    // A line each, so that they can be appended and cut.
    let mut lines = String::new();
    for event in &events {
        let line = serde_json::to_string(event).map_err(|error| Fault::internal(format!("no JSON: {error}")))?;
        lines.push_str(&line);
        lines.push('\n');
    }
    print(&escaped(&lines))?;
    Ok(0)
}

fn text(events: &[EventView]) -> String {
    let row = |event: &EventView| {
        vec![
            event.id.to_string(),
            event.time.clone(),
            event.severity.clone(),
            event.kind.clone(),
            dash(event.subject.as_ref()),
            event.message.clone(),
        ]
    };
    table(&["ID", "TIME", "SEVERITY", "TYPE", "SUBJECT", "MESSAGE"], &events.iter().map(row).collect::<Vec<_>>())
}
