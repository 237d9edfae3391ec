use super::*;

/// The demo's promises, under virtual time: the figures are the network's, not this
/// machine's.
#[tokio::test(start_paused = true)]
async fn everything_is_seen_and_the_fall_back_is_quick() {
    let mut events = Vec::new();
    let mut report = |event: DemoEvent| events.push(event);
    let summary = run(&mut report).await.unwrap_or_else(|e| panic!("{e}"));

    let fall_back = events.iter().find_map(|event| match event {
        DemoEvent::FellBack { via, after_ms, .. } => Some((via.clone(), *after_ms)),
        _ => None,
    });
    let (via, after_ms) = fall_back.expect("fell back");
    assert_eq!(via, ["R"]);
    assert!(after_ms <= 2000.0, "fell back after {after_ms} ms");
    assert!(
        summary.stall_ms <= 2000.0,
        "stalled {} ms",
        summary.stall_ms
    );
    assert!(summary.stream_bytes > 0);
    let directs = events
        .iter()
        .filter(|event| matches!(event, DemoEvent::Direct { .. }));
    assert_eq!(directs.count(), 2);
    let last = events.last().expect("events");
    assert!(
        matches!(
            last,
            DemoEvent::StaysOnCircuit {
                direct_datagrams: 0,
                ..
            }
        ),
        "{last}"
    );
}
