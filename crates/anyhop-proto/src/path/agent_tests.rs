use proptest::prelude::*;

use super::{super::LOST_HOLD, *};

const DIRECT: Route = Route::Direct(SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    4001,
));
const WEBSOCKET: Route = Route::WebSocket(CarrierId(1));
const CIRCUIT: Route = Route::Circuit(CircuitId(1));

/// An agent with a clock and counters that the test advances.
struct World {
    agent: PathAgent,
    now: Instant,
    counters: BTreeMap<PathKey, (u64, u64)>,
}

impl World {
    fn new(role: Role, route: Route) -> Self {
        Self {
            agent: PathAgent::new(role, true, 0, route),
            now: Instant::now(),
            counters: BTreeMap::from([(0, (0, 0))]),
        }
    }

    fn open(&mut self, key: PathKey, route: Route) {
        self.counters.insert(key, (0, 0));
        self.agent.handle_opened(self.now, key, route);
    }

    /// One tick in which `sends` send and `answers` receive.
    fn tick(&mut self, sends: &[PathKey], answers: &[PathKey]) -> Vec<Action> {
        self.now += ACTIVE_TICK;
        for key in sends {
            self.counters.entry(*key).or_default().0 += 5;
        }
        for key in answers {
            self.counters.entry(*key).or_default().1 += 5;
        }
        let samples: Vec<_> = self
            .counters
            .iter()
            .map(|(&key, &(tx, rx))| Sample {
                key,
                rtt: Some(Duration::from_millis(10)),
                tx,
                rx,
            })
            .collect();
        self.agent.handle_samples(self.now, &samples);
        self.drain()
    }

    /// A tick in which pings over these paths are answered too.
    fn tick_alive(&mut self, sends: &[PathKey], alive: &[PathKey]) -> Vec<Action> {
        let mut actions = self.tick(sends, &[]);
        let answered = |a: &Action| matches!(a, Action::Ping(key) if alive.contains(key));
        while let Some(at) = actions.iter().position(answered) {
            let Action::Ping(key) = actions.remove(at) else {
                unreachable!("just matched");
            };
            self.agent.handle_pong(self.now, key);
            actions.extend(self.drain());
        }
        actions
    }

    fn drain(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.agent.poll_action()).collect()
    }
}

#[test]
fn a_client_on_a_circuit_punches_at_once_and_then_prefers_the_direct_path() {
    let mut w = World::new(Role::Client, CIRCUIT);
    assert!(w.tick(&[0], &[0]).contains(&Action::Punch));
    w.open(1, DIRECT);
    w.agent.handle_punch_done(w.now, true);
    assert!(w.tick(&[0, 1], &[0, 1]).contains(&Action::Select(1)));
    assert_eq!(w.agent.selected(), Some(1));
}

#[test]
fn a_server_opens_nothing_but_a_websocket() {
    let mut w = World::new(Role::Server, CIRCUIT);
    for _ in 0..100 {
        for action in w.tick(&[0], &[]) {
            assert!(
                matches!(
                    action,
                    Action::Ping(_) | Action::GiveUp | Action::OpenWebSocket | Action::LookBack
                ),
                "{action:?}"
            );
        }
    }
}

#[test]
fn a_silent_direct_path_is_left_within_a_second_told_of_and_closed_later() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    w.tick(&[0, 1], &[0, 1]);
    let silent = w.now;
    let mut told = 0;
    while w.agent.selected() == Some(1) {
        let actions = w.tick_alive(&[1], &[0]);
        told += actions
            .iter()
            .filter(|a| **a == Action::TellLost(1, true))
            .count();
        assert!(w.now - silent <= Duration::from_millis(1000));
    }
    assert!(!w.agent.alive(1) && w.agent.alive(0));
    let lost = w.now;
    loop {
        let actions = w.tick_alive(&[0], &[0]);
        told += actions
            .iter()
            .filter(|a| **a == Action::TellLost(1, true))
            .count();
        if actions.contains(&Action::Close(1, CloseReason::Dead)) {
            break;
        }
        assert!(w.now - lost <= LOST_HOLD + ACTIVE_TICK);
    }
    assert!(w.now - lost >= LOST_HOLD - ACTIVE_TICK);
    assert!(told > 3, "as long as it is so");
}

#[test]
fn a_path_that_the_peer_calls_dead_is_left_at_once_and_taken_back_when_it_answers() {
    for role in [Role::Client, Role::Server] {
        let mut w = World::new(role, CIRCUIT);
        w.open(1, DIRECT);
        w.tick(&[0, 1], &[0, 1]);
        assert_eq!(w.agent.selected(), Some(1));
        w.agent.handle_peer_lost(w.now, 1, true);
        assert_eq!(w.agent.selected(), Some(0));
        let actions = w.drain();
        assert!(actions.contains(&Action::Ping(1)), "{actions:?}");
        // What the peer diverts counts as received on the path and proves nothing.
        w.tick(&[0], &[0, 1]);
        assert!(!w.agent.alive(1));
        // The peer answers, and hears nothing all the same.
        let told = w.now;
        while w.now - told < Duration::from_secs(2) {
            w.agent.handle_pong(w.now, 1);
            w.agent.handle_peer_lost(w.now, 1, true);
            assert!(!w.tick(&[0], &[0, 1]).contains(&Action::Revive(1)));
            assert_eq!(w.agent.selected(), Some(0));
        }
        // It says so no longer.
        let mut revived = false;
        while !revived {
            w.agent.handle_pong(w.now, 1);
            revived = w.tick(&[0], &[0, 1]).contains(&Action::Revive(1));
            assert!(w.now - told < Duration::from_secs(3));
        }
        w.tick(&[0, 1], &[0, 1]);
        assert_eq!(w.agent.selected(), Some(1));
    }
}

#[test]
fn when_the_peer_shows_up_elsewhere_only_a_pong_proves_its_old_path() {
    for moved in [true, false] {
        let mut w = World::new(Role::Client, CIRCUIT);
        w.open(1, DIRECT);
        w.tick(&[0, 1], &[0, 1]);
        w.agent.handle_peer_elsewhere(w.now);
        let told = w.now;
        let mut pings = w.drain();
        while w.now - told < Duration::from_millis(1200) {
            for action in pings {
                match action {
                    Action::Ping(1) if moved => {}
                    Action::Ping(key) => w.agent.handle_pong(w.now, key),
                    _ => {}
                }
            }
            // Its packets come in all the time.
            pings = w.tick(&[1], &[1]);
        }
        assert_eq!(w.agent.selected(), Some(PathKey::from(!moved)));
    }
}

#[test]
fn of_paths_that_died_together_none_is_closed_until_something_answers() {
    let mut w = World::new(Role::Server, CIRCUIT);
    w.open(1, Route::Circuit(CircuitId(2)));
    w.tick(&[0, 1], &[0, 1]);
    let end = w.now + GIVE_UP;
    while w.now < end {
        let actions = w.tick(&[0], &[]);
        assert!(!actions.iter().any(|a| matches!(a, Action::Close(..))));
    }
    w.agent.handle_pong(w.now, 1);
    let actions = w.drain();
    assert!(
        actions.contains(&Action::Close(0, CloseReason::Dead)),
        "{actions:?}"
    );
}

#[test]
fn a_suspect_path_has_all_others_pinged_so_that_a_dead_one_is_not_moved_to() {
    let mut w = World::new(Role::Server, DIRECT);
    let v6 = Route::Direct("[2001:db8::1]:4001".parse().unwrap());
    w.open(1, v6);
    w.open(2, CIRCUIT);
    w.tick(&[0, 1, 2], &[0, 1, 2]);
    let silent = w.now;
    while w.agent.selected() != Some(2) {
        // UDP is blocked; the circuit's relay is reached otherwise.
        w.tick_alive(&[0], &[2]);
        assert!(w.now - silent <= Duration::from_millis(1200));
    }
    assert!(!w.agent.alive(0) && !w.agent.alive(1));
}

#[test]
fn a_standby_is_pinged_while_there_is_traffic_and_left_alone_in_silence() {
    let mut w = World::new(Role::Server, DIRECT);
    w.open(1, CIRCUIT);
    w.tick(&[0, 1], &[0, 1]);
    let count = |w: &mut World, busy: bool| {
        let mut pings = 0;
        for _ in 0..100 {
            let actions = if busy {
                w.tick(&[0], &[0])
            } else {
                w.tick(&[], &[])
            };
            for action in actions {
                if let Action::Ping(key) = action {
                    pings += u32::from(key == 1);
                    w.agent.handle_pong(w.now, key);
                }
            }
        }
        pings
    };
    let busy = count(&mut w, true);
    assert!((8..=10).contains(&busy), "{busy} in 20 s");
    let silent = count(&mut w, false);
    assert!(silent <= 2, "{silent} in 20 s");
}

#[test]
fn answered_pings_keep_a_path_whose_acknowledgements_take_another() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    for _ in 0..50 {
        for action in w.tick(&[1], &[0]) {
            match action {
                Action::Ping(key) => w.agent.handle_pong(w.now, key),
                Action::Close(..) => panic!("closed a path that answers"),
                _ => {}
            }
        }
    }
}

#[test]
fn one_who_only_receives_notices_the_death_of_its_path_too() {
    let mut w = World::new(Role::Client, DIRECT);
    for _ in 0..10 {
        w.tick(&[], &[0]);
    }
    let silent = w.now;
    while !w.agent.stalled() {
        w.tick(&[], &[]);
        assert!(w.now - silent <= Duration::from_millis(1400));
    }
    // When the peer just has no more to say, one ping settles it.
    let mut w = World::new(Role::Client, DIRECT);
    w.tick(&[], &[0]);
    let mut pings = 0;
    for _ in 0..50 {
        for action in w.tick(&[], &[]) {
            assert_eq!(action, Action::Ping(0));
            w.agent.handle_pong(w.now, 0);
            pings += 1;
        }
    }
    assert_eq!(pings, 1);
    assert_eq!(w.agent.tick(), IDLE_TICK);
}

#[test]
fn a_late_timer_alone_kills_no_path() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    w.tick(&[1], &[1]);
    w.tick(&[1], &[]);
    w.now += Duration::from_secs(5);
    let actions = w.tick(&[1], &[]);
    assert!(actions.contains(&Action::Ping(1)));
    assert!(!actions.contains(&Action::Close(1, CloseReason::Dead)));
}

#[test]
fn the_last_path_is_never_closed_a_circuit_is_sought_and_the_end_comes() {
    let mut w = World::new(Role::Client, DIRECT);
    w.tick(&[0], &[0]);
    let start = w.now;
    let mut sought = 0;
    loop {
        let actions = w.tick(&[0], &[]);
        for action in actions {
            match action {
                Action::Close(..) => panic!("closed the last path"),
                Action::OpenCircuit => {
                    sought += 1;
                    w.agent.handle_circuit_done(w.now, false);
                }
                Action::GiveUp => {
                    assert!(sought >= 4, "only {sought} attempts");
                    assert!(w.now - start >= GIVE_UP);
                    return;
                }
                _ => {}
            }
        }
        assert!(w.now - start < GIVE_UP + Duration::from_secs(3));
    }
}

#[test]
fn a_direct_path_much_slower_than_the_circuit_is_not_selected() {
    let mut agent = PathAgent::new(Role::Client, true, 0, CIRCUIT);
    let now = Instant::now();
    let sample = |key, ms| Sample {
        key,
        rtt: Some(Duration::from_millis(ms)),
        tx: 1,
        rx: 1,
    };
    agent.handle_opened(now, 1, DIRECT);
    agent.handle_samples(now, &[sample(0, 20), sample(1, 90)]);
    assert_eq!(agent.selected(), Some(0));
    agent.handle_samples(now, &[sample(0, 20), sample(1, 25)]);
    assert_eq!(agent.selected(), Some(1));
}

#[test]
fn load_on_the_selected_path_does_not_make_it_flap() {
    let mut agent = PathAgent::new(Role::Client, true, 0, CIRCUIT);
    let now = Instant::now();
    agent.handle_opened(now, 1, DIRECT);
    for n in 0..50 {
        let sample = |key, ms| Sample {
            key,
            rtt: Some(Duration::from_millis(ms)),
            tx: n,
            rx: n,
        };
        agent.handle_samples(now, &[sample(0, 4), sample(1, 2 + n * 4)]);
        assert_eq!(agent.selected(), Some(1), "after {n} samples");
    }
}

#[test]
fn failed_punches_back_off_and_a_lost_direct_path_resets_that() {
    let mut w = World::new(Role::Client, CIRCUIT);
    let mut starts = Vec::new();
    for _ in 0..400 {
        if w.tick(&[0], &[0]).contains(&Action::Punch) {
            starts.push(w.now);
            w.agent.handle_punch_done(w.now, false);
        }
    }
    let gaps: Vec<_> = starts.windows(2).map(|p| (p[1] - p[0]).as_secs()).collect();
    assert_eq!(gaps[..4], [1, 2, 4, 8]);
    w.open(1, DIRECT);
    w.agent.handle_closed(w.now, 1);
    let lost = w.now;
    while !w.tick(&[0], &[0]).contains(&Action::Punch) {}
    assert!(w.now - lost <= Duration::from_millis(1400));
}

#[test]
fn a_client_on_one_circuit_gets_a_second_one_and_moves_to_it_when_the_first_dies() {
    let mut w = World::new(Role::Client, CIRCUIT);
    let start = w.now;
    while !w.tick(&[0], &[0]).contains(&Action::OpenStandby) {
        assert!(w.now - start < STANDBY_DELAY * 2);
    }
    w.open(1, Route::Circuit(CircuitId(2)));
    w.agent.handle_standby_done(w.now, true);
    let died = w.now;
    while w.agent.selected() != Some(1) {
        w.tick(&[0, 1], &[1]);
        assert!(w.now - died <= Duration::from_millis(1000));
    }
    w.agent.handle_closed(w.now, 0);
    let alone = w.now;
    while !w.tick(&[1], &[1]).contains(&Action::OpenStandby) {
        assert!(
            w.now - alone < Duration::from_secs(1),
            "and looks for another"
        );
    }
}

#[test]
fn a_session_with_a_direct_path_looks_for_no_second_circuit() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    for _ in 0..100 {
        assert!(!w.tick(&[0, 1], &[0, 1]).contains(&Action::OpenStandby));
    }
}

#[test]
fn a_second_circuit_that_is_not_to_be_had_is_sought_ever_less_often() {
    let mut w = World::new(Role::Client, CIRCUIT);
    let mut tries = Vec::new();
    while tries.len() < 4 {
        if w.tick(&[0], &[0]).contains(&Action::OpenStandby) {
            tries.push(w.now);
            w.agent.handle_standby_done(w.now, false);
        }
    }
    let waits: Vec<_> = tries.windows(2).map(|p| (p[1] - p[0]).as_secs()).collect();
    assert_eq!(waits, [10, 20, 40]);
}

#[test]
fn a_torn_down_circuit_is_replaced_at_once() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    w.tick(&[1], &[1]);
    w.agent.handle_circuit_ended(w.now, CircuitId(1));
    assert!(w.drain().contains(&Action::OpenCircuit));
    // It carried nothing here, and the peer says so of its end, too.
    w.agent.handle_peer_lost(w.now, 0, false);
    let actions = w.tick(&[1], &[1]);
    assert!(actions.contains(&Action::Close(0, CloseReason::CircuitEnded)));
}

#[test]
fn after_a_network_change_every_path_is_pinged_and_a_dead_one_leaves_sooner() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    w.agent.handle_punch_done(w.now, true);
    w.tick(&[0, 1], &[0, 1]);
    w.agent.handle_network_changed(w.now, true);
    let changed = w.now;
    assert_eq!(w.drain(), [Action::Ping(0), Action::Ping(1)]);
    w.agent.handle_pong(w.now, 0);
    loop {
        let actions = w.tick(&[1], &[]);
        if actions.contains(&Action::Select(0)) {
            // A punch is not made to wait for what went before.
            assert!(actions.contains(&Action::Punch));
            break;
        }
        assert!(w.now - changed <= Duration::from_millis(400));
    }
}

#[test]
fn a_path_that_answers_after_a_network_change_stays() {
    let mut w = World::new(Role::Client, DIRECT);
    w.tick(&[0], &[0]);
    w.agent.handle_network_changed(w.now, true);
    assert_eq!(w.drain(), [Action::Ping(0)]);
    w.agent.handle_pong(w.now, 0);
    for _ in 0..20 {
        let actions = w.tick(&[0], &[0]);
        assert_eq!(actions, [], "nothing is amiss");
    }
}

#[test]
fn nothing_is_closed_or_given_up_while_the_host_is_offline() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.open(1, DIRECT);
    w.tick(&[0, 1], &[0, 1]);
    w.agent.handle_network_changed(w.now, false);
    for n in 0..1000 {
        // One of the two is silent for longer, as idle paths are.
        let sends: &[PathKey] = if n < 30 { &[1] } else { &[0, 1] };
        for action in w.tick(sends, &[]) {
            assert!(
                !matches!(action, Action::Close(..) | Action::GiveUp),
                "{action:?} while offline"
            );
            if action == Action::OpenCircuit {
                w.agent.handle_circuit_done(w.now, false);
            }
        }
    }
    assert!(w.agent.stalled());
    w.agent.handle_network_changed(w.now, true);
    w.agent.handle_pong(w.now, 1);
    assert!(w.drain().contains(&Action::Revive(1)));
    assert!(!w.agent.stalled());
}

#[test]
fn back_online_the_time_to_give_up_starts_anew() {
    let mut w = World::new(Role::Server, DIRECT);
    w.tick(&[0], &[0]);
    w.agent.handle_network_changed(w.now, false);
    for _ in 0..100 {
        assert!(!w.tick(&[0], &[]).contains(&Action::GiveUp));
    }
    w.agent.handle_network_changed(w.now, true);
    let back = w.now;
    while !w.tick(&[0], &[]).contains(&Action::GiveUp) {
        assert!(w.now - back < GIVE_UP + Duration::from_secs(1));
    }
    assert!(w.now - back >= GIVE_UP);
}

#[test]
fn a_session_whose_udp_dies_opens_a_websocket_at_once_and_moves_to_it() {
    let mut w = World::new(Role::Client, DIRECT);
    w.tick(&[0], &[0]);
    let dying = w.now;
    while !w.tick(&[0], &[]).contains(&Action::OpenWebSocket) {
        assert!(w.now - dying < Duration::from_millis(1300));
    }
    w.open(1, WEBSOCKET);
    w.agent.handle_websocket_done(w.now, true);
    let actions = w.tick(&[1], &[1]);
    assert_eq!(w.agent.selected(), Some(1));
    // And UDP is looked for again, agreed on over the WebSocket.
    assert!(actions.contains(&Action::Punch));
}

#[test]
fn a_websocket_is_closed_when_udp_has_held_and_not_before() {
    let mut w = World::new(Role::Client, WEBSOCKET);
    w.tick(&[0], &[0]);
    w.open(1, DIRECT);
    let back = w.now;
    loop {
        let actions = w.tick(&[1], &[0, 1]);
        if actions.contains(&Action::Close(0, CloseReason::Unneeded)) {
            break;
        }
        assert!(w.now - back <= WEBSOCKET_HOLD + Duration::from_secs(1));
    }
    assert!(w.now - back >= WEBSOCKET_HOLD);
    assert_eq!(w.agent.selected(), Some(1));
}

#[test]
fn a_websocket_is_tried_beside_a_circuit_when_no_punch_has_led_to_udp() {
    for (role, least) in [(Role::Client, 1500), (Role::Server, 4000)] {
        let mut w = World::new(role, CIRCUIT);
        w.tick(&[0], &[0]);
        let start = w.now;
        while !w.tick(&[0], &[0]).contains(&Action::OpenWebSocket) {
            assert!(w.now - start < Duration::from_secs(5));
        }
        assert!(w.now - start >= Duration::from_millis(least - 200));
        w.agent.handle_websocket_done(w.now, false);
        let failed = w.now;
        while !w.tick(&[0], &[0]).contains(&Action::OpenWebSocket) {}
        assert!(w.now - failed >= WEBSOCKET_RETRY);
    }
}

#[test]
fn while_nothing_lives_old_addresses_are_asked_once_a_second() {
    for role in [Role::Client, Role::Server] {
        let mut w = World::new(role, WEBSOCKET);
        w.tick(&[0], &[0]);
        let mut looks = 0;
        while !w.agent.stalled() {
            looks += usize::from(w.tick(&[0], &[]).contains(&Action::LookBack));
        }
        for _ in 0..10_000 / 200 {
            looks += usize::from(w.tick(&[0], &[]).contains(&Action::LookBack));
        }
        assert!((10..=11).contains(&looks), "{looks} in 10 s");
        w.agent.handle_pong(w.now, 0);
        assert!(!w.tick(&[0], &[0]).contains(&Action::LookBack));
    }
}

#[test]
fn of_equal_round_trips_udp_is_best_then_a_websocket_then_a_circuit() {
    let mut agent = PathAgent::new(Role::Client, true, 0, CIRCUIT);
    let now = Instant::now();
    let samples = |keys: &[PathKey]| -> Vec<Sample> {
        let sample = |key: &PathKey| Sample {
            key: *key,
            rtt: Some(Duration::from_millis(50)),
            tx: 1,
            rx: 1,
        };
        keys.iter().map(sample).collect()
    };
    agent.handle_opened(now, 1, WEBSOCKET);
    agent.handle_samples(now, &samples(&[0, 1]));
    assert_eq!(agent.selected(), Some(1));
    agent.handle_opened(now, 2, DIRECT);
    agent.handle_samples(now, &samples(&[0, 1, 2]));
    assert_eq!(agent.selected(), Some(2));
}

#[test]
fn a_websocket_that_is_closed_ends_its_path_only_when_another_lives() {
    let mut w = World::new(Role::Client, WEBSOCKET);
    w.tick(&[0], &[0]);
    w.agent.handle_websocket_ended(w.now, CarrierId(1));
    assert!(w.agent.stalled());
    let actions = w.drain();
    assert!(actions.contains(&Action::OpenWebSocket), "{actions:?}");
    assert!(!actions.iter().any(|a| matches!(a, Action::Close(..))));
    w.open(1, Route::WebSocket(CarrierId(2)));
    let opened = w.now;
    while !w
        .tick(&[1], &[1])
        .contains(&Action::Close(0, CloseReason::WebSocketEnded))
    {
        assert!(w.now - opened <= LOST_HOLD);
    }
}

#[test]
fn a_direct_session_looks_for_the_family_it_has_no_path_over() {
    for role in [Role::Client, Role::Server] {
        let mut w = World::new(role, DIRECT);
        assert!(!w.tick(&[0], &[0]).contains(&Action::TryFamily(Family::V6)));
        w.agent.set_families(&[Family::V4, Family::V6]);
        let mut tries = Vec::new();
        for _ in 0..100 {
            if w.tick(&[0], &[0]).contains(&Action::TryFamily(Family::V6)) {
                tries.push(w.now);
            }
        }
        let gaps: Vec<_> = tries.windows(2).map(|p| (p[1] - p[0]).as_secs()).collect();
        assert_eq!(gaps, [1, 2, 4, 8], "{role:?}");
        w.open(1, Route::Direct("[2001:db8::1]:4001".parse().unwrap()));
        w.agent.handle_peer_told(w.now);
        let actions: Vec<_> = (0..100).flat_map(|_| w.tick(&[0], &[0, 1])).collect();
        assert!(!actions.iter().any(|a| matches!(a, Action::TryFamily(_))));
    }
}

#[test]
fn a_session_on_a_circuit_leaves_families_to_the_punch() {
    let mut w = World::new(Role::Client, CIRCUIT);
    w.agent.set_families(&[Family::V4, Family::V6]);
    for _ in 0..50 {
        let actions = w.tick(&[0], &[0]);
        assert!(!actions.iter().any(|a| matches!(a, Action::TryFamily(_))));
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_selected_path_is_open_and_actions_name_open_paths(
        steps in proptest::collection::vec((0..12_u8, 0..4_u32), 1..200)
    ) {
        let mut w = World::new(Role::Client, CIRCUIT);
        for (step, key) in steps {
            match step {
                0 => w.open(key, DIRECT),
                1 => w.open(key, Route::Circuit(CircuitId(u64::from(key)))),
                5 => w.open(key, Route::WebSocket(CarrierId(u64::from(key)))),
                2 if w.agent.paths().count() > 1 => {
                    w.counters.remove(&key);
                    w.agent.handle_closed(w.now, key);
                }
                3 => { w.tick(&[key], &[]); }
                4 => w.agent.handle_pong(w.now, key),
                6 => w.agent.handle_network_changed(w.now, key > 0),
                7 => w.agent.handle_peer_lost(w.now, key, key % 2 == 0),
                8 => w.agent.handle_doubt(w.now),
                9 => w.agent.handle_peer_elsewhere(w.now),
                _ => { w.tick(&[key], &[key]); }
            }
            for action in w.drain() {
                if let Action::Ping(k)
                | Action::Revive(k)
                | Action::Select(k)
                | Action::TellLost(k, _)
                | Action::Close(k, _) = action
                {
                    prop_assert!(w.agent.route(k).is_some(), "{:?} on an unknown path", action);
                }
            }
            if let Some(selected) = w.agent.selected() {
                prop_assert!(w.agent.route(selected).is_some());
            }
        }
    }
}
