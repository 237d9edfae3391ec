//! `explain`.

use std::fmt::Write as _;

use anyhop::{
    AttemptInfo, AttemptOutcome, CandidateInfo, CandidateSource, Explanation, PeerState, Technique,
};

use super::{Context, path_text};
use crate::{
    api::ExplainQuery,
    args::ExplainArgs,
    error::CliError,
    output::{self, Mark},
};

pub(super) async fn run(context: &Context, args: &ExplainArgs) -> Result<(), CliError> {
    let bar = output::spinner(format!("looking into {}", args.peer));
    let query = ExplainQuery {
        no_dial: args.no_dial,
    };
    let path = format!("/v1/explain/{}", args.peer);
    let explanation: Result<Explanation, _> = context.client().query(&path, &query).await;
    bar.finish_and_clear();
    context.output.result(&explanation?, text)
}

fn text(e: &Explanation) -> String {
    let mark = match e.state {
        PeerState::Direct => Mark::Ok,
        PeerState::Relayed | PeerState::Connecting => Mark::Warn,
        _ => Mark::Fail,
    };
    let mut out = format!("{}\n{} {}", e.peer_id, mark.text(), e.verdict);
    list(&mut out, "paths", &e.paths, |path| {
        let selected = if path.selected { "* " } else { "  " };
        format!("{selected}{}", path_text(path))
    });
    list(&mut out, "our candidates", &e.candidates.ours, candidate);
    list(
        &mut out,
        "their candidates",
        &e.candidates.theirs,
        candidate,
    );
    list(&mut out, "attempts", &e.attempts, attempt);
    if let Some(next) = &e.next {
        let what = technique(next.technique);
        let _ = write!(out, "\nnext\n  {what} in {:.1} s", seconds(next.in_ms));
    }
    out
}

fn list<T>(out: &mut String, what: &str, items: &[T], line: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let _ = write!(out, "\n{what}");
    for item in items {
        let _ = write!(out, "\n  {}", line(item));
    }
}

fn candidate(c: &CandidateInfo) -> String {
    let source = match c.source {
        CandidateSource::Interface => "interface",
        CandidateSource::Observed => "seen by others",
        CandidateSource::Mapping => "mapped by the gateway",
        CandidateSource::Record => "told by the peer",
        CandidateSource::Given => "given by hand",
        CandidateSource::Relay => "relay",
        _ => "other",
    };
    match c.unusable.is_empty() {
        true => format!("{} ({source})", c.address),
        false => format!("{} ({source}; not tried: {})", c.address, c.unusable),
    }
}

fn attempt(a: &AttemptInfo) -> String {
    let mark = match a.outcome {
        AttemptOutcome::Connected => Mark::Ok,
        AttemptOutcome::Failed => Mark::Fail,
        _ => Mark::Skipped,
    };
    let outcome = match a.outcome {
        AttemptOutcome::Connected => "connected".to_owned(),
        AttemptOutcome::Running => "running".to_owned(),
        AttemptOutcome::Skipped => format!("not made: {}", a.reason),
        _ => a.reason.clone(),
    };
    format!(
        "{} {:.1} s ago: {} {} -> {} ({} ms): {outcome}",
        mark.text(),
        seconds(a.started_ms_ago),
        technique(a.technique),
        a.local,
        a.remote,
        a.took_ms,
    )
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn technique(technique: Technique) -> &'static str {
    match technique {
        Technique::Dial => "dial",
        Technique::Lan => "dial in the local network",
        Technique::PortMapping => "port mapping",
        Technique::Punch => "punch",
        Technique::LowTtl => "punch with low-TTL openers",
        Technique::Prediction => "port prediction",
        Technique::Birthday => "birthday",
        Technique::WebSocket => "WebSocket",
        Technique::Circuit => "circuit",
        _ => "another technique",
    }
}
