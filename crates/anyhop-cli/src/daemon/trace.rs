//! `trace`: some rounds of the library's trace, put together.

use anyhop::{Node, PeerId, TraceHop};

use crate::{
    api::{HopReport, TraceReport},
    error::CliError,
};

/// Traces a peer `rounds` times and averages what was answered. When the way changes in
/// between, the rounds over the old one are dropped. Names are not filled in.
pub(super) async fn run(node: &Node, peer: PeerId, rounds: u16) -> Result<TraceReport, CliError> {
    let mut over_this_way: Vec<Vec<TraceHop>> = Vec::new();
    for _ in 0..rounds {
        let hops = node.trace(peer).await?;
        let same_way = |other: &Vec<TraceHop>| ids(other).eq(ids(&hops));
        over_this_way.retain(same_way);
        over_this_way.push(hops);
    }
    let session = node.session_info(peer);
    let selected = session.and_then(|s| s.paths.into_iter().find(|p| p.selected));
    let mut hops = merge(&over_this_way);
    if let (Some(first), Some(path)) = (hops.first_mut(), selected) {
        first.carrier = Some(path.carrier);
    }
    Ok(TraceReport {
        peer_id: peer.to_base58(),
        hops,
    })
}

fn ids(hops: &[TraceHop]) -> impl Iterator<Item = &str> {
    hops.iter().map(|h| h.peer_id.as_str())
}

/// The means of each hop. A round that a hop did not answer is one whose probes are lost.
fn merge(rounds: &[Vec<TraceHop>]) -> Vec<HopReport> {
    let Some(last) = rounds.last() else {
        return Vec::new();
    };
    let hop = |(at, hop): (usize, &TraceHop)| {
        let of_hop = || rounds.iter().filter_map(|r| r.get(at));
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        let rtts: Vec<f64> = of_hop().filter_map(|h| h.rtt_ms).collect();
        let answered = !rtts.is_empty();
        let losses = of_hop().map(|h| h.loss.unwrap_or(1.0));
        HopReport {
            hop: at + 1,
            peer_id: hop.peer_id.clone(),
            name: None,
            carrier: None,
            rtt_ms: mean(rtts.iter().sum(), rtts.len()),
            // Of a hop that nobody measured nothing is known.
            loss: answered.then(|| losses.sum::<f64>() / rounds.len() as f64),
            answered,
            reason: match answered {
                true => String::new(),
                false => hop.reason.clone(),
            },
        }
    };
    last.iter().enumerate().map(hop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(rtt_ms: Option<f64>, loss: Option<f64>) -> TraceHop {
        TraceHop {
            peer_id: "a".to_owned(),
            rtt_ms,
            loss,
            reason: match rtt_ms {
                Some(_) => String::new(),
                None => "no probe was answered".to_owned(),
            },
        }
    }

    #[test]
    fn rounds_are_averaged_and_a_silent_one_counts_as_lost() {
        let answered = |rtt, loss| vec![hop(Some(rtt), Some(loss))];
        let silent = || vec![hop(None, None)];
        let merged = merge(&[answered(10.0, 0.0), answered(20.0, 0.2), silent(), silent()]);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].hop, 1);
        assert_eq!(merged[0].rtt_ms, Some(15.0));
        assert!((merged[0].loss.expect("answered") - 0.55).abs() < 1e-9);
        assert!(merged[0].answered && merged[0].reason.is_empty());

        let merged = merge(&[silent(), silent()]);
        assert_eq!((merged[0].rtt_ms, merged[0].loss), (None, None));
        assert_eq!(merged[0].reason, "no probe was answered");
        assert!(!merged[0].answered);
    }
}
