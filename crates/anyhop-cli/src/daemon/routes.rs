//! Subnet routes and exit nodes of a private network: what this host forwards to for members,
//! and what it reaches over them. Kept in the network's folder:
//!
//! ```text
//! # anyhop routes 1
//! offer 192.168.7.0/24
//! offer exit as-is
//! accept 10.1.0.0/16 12D3..
//! ```
//!
//! - **Start**: with the VPN. The kernel is told to forward, and a table of our own in nftables
//!   hides members behind this host's address, unless an offer says `as-is`.
//! - **Steady state**: a host that forwarded nothing before forwards to and from our interfaces
//!   only. An accepted exit has a table of routes of its own, which rules put before the
//!   default routes of the main one for all packets but those of nodes themselves.
//! - **Failure**: all that is changed on the host is in the journal. Offers for which the host
//!   cannot be changed are not made.

use std::{
    fmt, fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhop::{
    AcceptedRoute, EXIT_TABLE, HostJournal, JournalError, MAX_ACCEPTED, MAX_OFFERS, NetworkHandle,
    PeerId, Prefix, PrivateNetwork, SOCKET_MARK, Vpn, VpnMode,
};
use anyhop_os::{
    INTERFACE_PREFIX, RoutingRule,
    nft::{Table, equals, field, meta},
    sysctl,
};
use serde_json::{Value, json};

use super::{Presence, kept};
use crate::{
    api::routes::{AcceptAsk, OfferAsk, OfferReport, RouteReport, RoutesReport},
    error::{CliError, Code},
};

/// Name of the file in a network's folder.
const FILE: &str = "routes";
/// Its first line.
const HEADER: &str = "# anyhop routes 1";
/// Largest file read, bytes.
const MAX_FILE: u64 = 64 << 10;
/// What the changes of the host are for.
const OFFERS: &str = "offers";
const EXIT: &str = "exit";
/// Whether the kernel forwards.
const FORWARD_V4: &str = "net/ipv4/ip_forward";
const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";
/// Of our rules about routes: before the main table's, which is 32766.
const PRIORITY: u32 = 32_700;
/// The kernel's ordinary table of routes.
const MAIN_TABLE: u32 = 254;

/// A prefix, or whatever else there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Route {
    Prefix(Prefix),
    Exit,
}

impl Route {
    fn prefixes(self) -> Vec<Prefix> {
        match self {
            Self::Prefix(prefix) => vec![prefix],
            Self::Exit => {
                let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
                any.into_iter()
                    .filter_map(|ip| Prefix::new(ip, 0))
                    .collect()
            }
        }
    }

    /// The one that a prefix belongs to.
    fn of(prefix: Prefix) -> Self {
        match prefix.len() {
            0 => Self::Exit,
            _ => Self::Prefix(prefix),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Exit => f.write_str("exit"),
        }
    }
}

impl FromStr for Route {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        if text == "exit" {
            return Ok(Self::Exit);
        }
        let prefix: Result<Prefix, _> = text.parse();
        match prefix {
            Ok(prefix) if prefix.len() > 0 => Ok(Self::Prefix(prefix)),
            Ok(_) => Err(CliError::usage(format!("{text} is everything"))
                .hint("`exit` is the word for that, in both families")),
            Err(e) => Err(CliError::usage(e.to_string())
                .hint("a route is a prefix, or `exit` for whatever else there is")),
        }
    }
}

/// What was said about routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Routes {
    offers: Vec<Offer>,
    accepted: Vec<(Route, PeerId)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offer {
    route: Route,
    masquerade: bool,
}

impl Routes {
    fn read(folder: &Path) -> Result<Self, CliError> {
        let hint = "correct the file, or remove it";
        kept::read(&folder.join(FILE), MAX_FILE, hint, Self::parse)
    }

    fn write(&self, folder: &Path) -> Result<(), CliError> {
        kept::write(folder, FILE, &self.text(), "the routes")
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().zip(1..);
        if lines.next().map(|(line, _)| line) != Some(HEADER) {
            return Err(format!("its first line is not {HEADER:?}"));
        }
        let mut routes = Self::default();
        for (line, number) in lines {
            let told = |why: &dyn fmt::Display| format!("line {number}: {why}");
            let words: Vec<_> = line.split_whitespace().collect();
            let route = |text: &str| text.parse().map_err(|e: CliError| told(&e.message));
            match words[..] {
                [] => {}
                ["offer", of, ref rest @ ..] if rest.is_empty() || rest == ["as-is"] => {
                    routes.offers.push(Offer {
                        route: route(of)?,
                        masquerade: rest.is_empty(),
                    });
                }
                ["accept", of, from] => {
                    let from = from.parse().map_err(|_| told(&"it ends with no PeerId"))?;
                    routes.accepted.push((route(of)?, from));
                }
                _ => return Err(told(&"it is neither an offer nor an acceptance")),
            }
        }
        routes.check().map_err(|e| e.message)?;
        Ok(routes)
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for Offer { route, masquerade } in &self.offers {
            let tail = if *masquerade { "" } else { " as-is" };
            text.push_str(&format!("offer {route}{tail}\n"));
        }
        for (route, from) in &self.accepted {
            text.push_str(&format!("accept {route} {from}\n"));
        }
        text
    }

    fn check(&self) -> Result<(), CliError> {
        let limit = |what, limit| {
            let message = format!("at most {limit} prefixes are {what}; an exit counts as two");
            Err(CliError::new(Code::Limit, message))
        };
        if self.offered().len() > MAX_OFFERS {
            return limit("offered", MAX_OFFERS);
        }
        if self.accepted_routes().len() > MAX_ACCEPTED {
            return limit("accepted", MAX_ACCEPTED);
        }
        let exit_offered = self.offers.iter().any(|o| o.route == Route::Exit);
        if exit_offered && self.accepts_exit() {
            let message = "a host that has an exit node cannot be one";
            return Err(CliError::new(Code::Refused, message)
                .hint("take the other one back with `anyhop vpn offer|accept exit --remove`"));
        }
        Ok(())
    }

    fn offered(&self) -> Vec<Prefix> {
        let offers = self.offers.iter();
        offers.flat_map(|o| o.route.prefixes()).collect()
    }

    fn accepted_routes(&self) -> Vec<AcceptedRoute> {
        let accepted = self.accepted.iter();
        let each = accepted.flat_map(|(route, from)| {
            let prefixes = route.prefixes().into_iter();
            prefixes.map(|prefix| AcceptedRoute {
                prefix,
                from: *from,
            })
        });
        each.collect()
    }

    fn accepts_exit(&self) -> bool {
        self.accepted.iter().any(|(route, _)| *route == Route::Exit)
    }

    fn offer(&mut self, route: Route, ask: &OfferAsk) -> Result<(), CliError> {
        let before = self.offers.len();
        self.offers.retain(|o| o.route != route);
        if !ask.remove {
            let masquerade = !ask.no_masquerade;
            self.offers.push(Offer { route, masquerade });
        } else if self.offers.len() == before {
            return Err(CliError::usage(format!("{route} is not offered"))
                .hint("`anyhop vpn routes` lists what is"));
        }
        self.check()
    }

    fn forget(&mut self, route: Route) -> Result<(), CliError> {
        let before = self.accepted.len();
        self.accepted.retain(|(r, _)| *r != route);
        if self.accepted.len() == before {
            return Err(CliError::usage(format!("{route} is not accepted"))
                .hint("`anyhop vpn routes` lists what is"));
        }
        Ok(())
    }
}

impl Presence {
    fn network_folder(&self) -> PathBuf {
        PrivateNetwork::folder(self.state_dir.path(), self.id())
    }

    /// Offers a route, or does so no more.
    pub(super) async fn offer(&self, ask: OfferAsk) -> Result<RoutesReport, CliError> {
        let route: Route = ask.route.parse()?;
        self.change_routes(|routes| routes.offer(route, &ask)).await
    }

    /// Accepts a route of a member, or does so no more.
    pub(super) async fn accept(&self, ask: AcceptAsk) -> Result<RoutesReport, CliError> {
        let route: Route = ask.route.parse()?;
        if ask.remove {
            return self.change_routes(|routes| routes.forget(route)).await;
        }
        let network = self.private()?;
        let from = match &ask.from {
            Some(from) => self.resolve(from)?,
            None => {
                let accepted = Routes::read(&self.network_folder())?.accepted;
                let known = accepted.iter().find(|(r, _)| *r == route);
                match known {
                    Some((_, from)) => *from,
                    None => who_offers(&network, route)?,
                }
            }
        };
        if network.caller(from).is_none() || from == self.node.peer_id() {
            return Err(CliError::usage(format!("{from} is no other member")));
        }
        let change = |routes: &mut Routes| {
            routes.accepted.retain(|(r, _)| *r != route);
            routes.accepted.push((route, from));
            routes.check()
        };
        self.change_routes(change).await
    }

    async fn change_routes(
        &self,
        change: impl FnOnce(&mut Routes) -> Result<(), CliError>,
    ) -> Result<RoutesReport, CliError> {
        let network = self.private()?;
        let vpn = self.vpn.lock().await;
        let folder = self.network_folder();
        let mut routes = Routes::read(&folder)?;
        let before = routes.clone();
        change(&mut routes)?;
        routes.write(&folder)?;
        if let Some(vpn) = vpn.as_ref()
            && let Err(e) = self.use_routes(vpn, &network, &routes).await
        {
            before.write(&folder)?;
            // What held before held then, too.
            let _ = self.use_routes(vpn, &network, &before).await;
            return Err(e);
        }
        Ok(self.report_routes(&network, vpn.as_ref(), &routes))
    }

    /// What is offered and accepted.
    pub(super) async fn routes(&self) -> Result<RoutesReport, CliError> {
        let network = self.private()?;
        let vpn = self.vpn.lock().await;
        let routes = Routes::read(&self.network_folder())?;
        Ok(self.report_routes(&network, vpn.as_ref(), &routes))
    }

    /// Has what is kept hold for a VPN that came up; tells what keeps it from that.
    pub(super) async fn routes_up(&self, vpn: &Vpn) {
        let used = async {
            let network = self.private()?;
            let routes = Routes::read(&self.network_folder())?;
            self.use_routes(vpn, &network, &routes).await
        };
        if let Err(error) = used.await {
            tracing::warn!("routes over members are not used: {error}");
        }
    }

    async fn use_routes(
        &self,
        vpn: &Vpn,
        network: &NetworkHandle,
        routes: &Routes,
    ) -> Result<(), CliError> {
        let frames = vpn.mode() == VpnMode::L2;
        let nothing = Routes::default();
        let routes = if frames { &nothing } else { routes };
        vpn.set_offers(&[]);
        let interface = vpn.status().interface;
        let table = forwarding_table(&interface, network.overlay_prefixes(), &routes.offers);
        let (owner, offered) = (self.host_owner(OFFERS), routes.offered());
        let forward = move |journal: &HostJournal| forward(journal, &owner, &offered, table);
        self.with_journal(forward).await??;
        vpn.set_offers(&routes.offered());
        vpn.set_accepted(routes.accepted_routes());
        let (owner, exit) = (self.host_owner(EXIT), routes.accepts_exit());
        let rules = move |journal: &HostJournal| exit_rules(journal, &owner, exit);
        Ok(self.with_journal(rules).await??)
    }

    fn report_routes(
        &self,
        network: &NetworkHandle,
        vpn: Option<&Vpn>,
        routes: &Routes,
    ) -> RoutesReport {
        let down = match vpn.map(Vpn::mode) {
            None => Some("the VPN is not up".to_owned()),
            Some(VpnMode::L2) => Some("the VPN carries ethernet frames".to_owned()),
            Some(VpnMode::L3) => None,
        };
        let offer = |offer: &Offer| OfferReport {
            route: offer.route.to_string(),
            masquerade: offer.masquerade,
            active: down.is_none(),
            why: down.clone(),
        };
        let offered = network.offers().into_iter();
        let offered: Vec<_> = offered.map(|(peer, p)| (Route::of(p), peer)).collect();
        let mut all = [&routes.accepted[..], &offered].concat();
        all.sort();
        all.dedup();
        let report = |(route, peer): (Route, PeerId)| {
            let accepted = routes.accepted.contains(&(route, peer));
            let problem = || match (&down, vpn) {
                (None, Some(vpn)) => route_problem(vpn, route, peer),
                _ => down.clone(),
            };
            let why = if accepted { problem() } else { None };
            RouteReport {
                route: route.to_string(),
                peer_id: peer.to_base58(),
                name: network.caller(peer).map(|c| c.name).unwrap_or_default(),
                offered: offered.contains(&(route, peer)),
                accepted,
                active: accepted && why.is_none(),
                why,
            }
        };
        RoutesReport {
            network: self.name(),
            offers: routes.offers.iter().map(offer).collect(),
            routes: all.into_iter().map(report).collect(),
        }
    }
}

/// Why a route is not used; of an exit, when neither family is.
fn route_problem(vpn: &Vpn, route: Route, from: PeerId) -> Option<String> {
    let prefixes = route.prefixes().into_iter();
    let problems = prefixes.map(|prefix| vpn.route_problem(&AcceptedRoute { prefix, from }));
    let problems: Option<Vec<_>> = problems.collect();
    problems?.into_iter().next()
}

fn who_offers(network: &NetworkHandle, route: Route) -> Result<PeerId, CliError> {
    let wanted = route.prefixes();
    let offers = network.offers().into_iter();
    let fitting = offers.filter(|(_, p)| {
        let covers = |w: &Prefix| p.len() <= w.len() && p.contains(w.first());
        wanted.iter().any(covers) && (p.len() > 0) == (route != Route::Exit)
    });
    let mut peers: Vec<PeerId> = fitting.map(|(peer, _)| peer).collect();
    peers.sort();
    peers.dedup();
    let name = |peer: &PeerId| network.caller(*peer).map_or_else(String::new, |c| c.name);
    match &peers[..] {
        [only] => Ok(*only),
        [] => {
            let message = format!("no member that this node knows of offers {route}");
            Err(CliError::new(Code::Refused, message)
                .hint("name the member with --from, so that it is asked"))
        }
        several => {
            let names: Vec<_> = several.iter().map(name).collect();
            let message = format!("{route} is offered by {}", names.join(" and "));
            Err(CliError::usage(message).hint("choose with --from MEMBER"))
        }
    }
}

/// What hides members behind this host's address, and keeps it from forwarding anything else.
fn forwarding_table(interface: &str, overlay: [Prefix; 2], offers: &[Offer]) -> Table {
    let mut table = Table::new(interface, OFFERS)
        .base_chain("forward", "filter", "forward", 0)
        .base_chain("hide", "nat", "postrouting", 100);
    for offer in offers.iter().filter(|o| o.masquerade) {
        for prefix in offer.route.prefixes() {
            let v6 = prefix.first().is_ipv6();
            let protocol = if v6 { "ip6" } else { "ip" };
            let members = overlay.iter().find(|p| p.first().is_ipv6() == v6);
            let mut statements: Vec<Value> = Vec::new();
            statements.extend(members.map(|p| within(protocol, "saddr", *p)));
            if prefix.len() > 0 {
                statements.push(within(protocol, "daddr", prefix));
            }
            statements.push(not_ours("oifname"));
            statements.push(json!({ "masquerade": null }));
            table.rule("hide", &statements);
        }
    }
    table
}

fn within(protocol: &str, side: &str, prefix: Prefix) -> Value {
    let prefix = json!({ "prefix": { "addr": prefix.first(), "len": prefix.len() } });
    equals(&field(protocol, side), prefix)
}

/// The statement that holds where the interface is none of ours.
fn not_ours(which: &str) -> Value {
    let ours = format!("{INTERFACE_PREFIX}*");
    json!({ "match": { "op": "!=", "left": meta(which), "right": ours } })
}

/// Has the kernel forward, as far as it has to for what is offered.
fn forward(
    journal: &HostJournal,
    owner: &str,
    offered: &[Prefix],
    mut table: Table,
) -> Result<(), JournalError> {
    told(journal.undo_all(owner));
    if offered.is_empty() {
        return Ok(());
    }
    let families = [(false, FORWARD_V4, "ipv4"), (true, FORWARD_V6, "ipv6")];
    let mut settings = Vec::new();
    for (v6, key, name) in families {
        let Ok(now) = sysctl(key) else { continue };
        if !offered.iter().any(|p| p.first().is_ipv6() == v6) {
            continue;
        }
        let before = journal.before_sysctl(key).unwrap_or(now);
        if before == "0" {
            let family = equals(&meta("nfproto"), name);
            let others = [family, not_ours("iifname"), not_ours("oifname")];
            table.rule(
                "forward",
                &[&others[..], &[json!({ "drop": null })]].concat(),
            );
            if v6 {
                settings.extend(routers_believed());
            }
        }
        settings.push((key.to_owned(), "1"));
    }
    let made = settings
        .iter()
        .try_fold((), |(), (key, value)| journal.set_sysctl(owner, key, value));
    // The table first: nothing is forwarded that should not be, for no moment.
    let made = match table.is_empty() {
        true => made,
        false => journal.apply_table(owner, &table).and(made),
    };
    if made.is_err() {
        told(journal.undo_all(owner));
    }
    made
}

/// Interfaces that believe routers which announce themselves: a host that forwards does so only
/// when it is told to.
fn routers_believed() -> Vec<(String, &'static str)> {
    of_interfaces("net/ipv6/conf", "accept_ra", "1", "2")
}

/// Interfaces that take packets only from where they would send them: packets of sessions come
/// in where others would not leave. That somebody is there is still asked for (RFC 3704 section
/// 2.4).
fn strict_about_sources() -> Vec<(String, &'static str)> {
    of_interfaces("net/ipv4/conf", "rp_filter", "1", "2")
}

/// What to set where a setting of interfaces has this value.
fn of_interfaces(
    folder: &str,
    setting: &str,
    now: &str,
    then: &'static str,
) -> Vec<(String, &'static str)> {
    let all = fs::read_dir(Path::new("/proc/sys").join(folder));
    let names = all.into_iter().flatten().flatten().map(|e| e.file_name());
    let keys = names.map(|name| format!("{folder}/{}/{setting}", name.to_string_lossy()));
    let such = keys.filter(|key| sysctl(key).is_ok_and(|v| v == now));
    such.map(|key| (key, then)).collect()
}

/// Has the table with the way to an exit node decide, where the main one has a default route
/// at most, about all packets but those of nodes.
fn exit_rules(journal: &HostJournal, owner: &str, exit: bool) -> Result<(), JournalError> {
    if !exit {
        told(journal.undo_all(owner));
        return Ok(());
    }
    for (key, value) in strict_about_sources() {
        journal.set_sysctl(owner, &key, value)?;
    }
    for v6 in [false, true] {
        let main = RoutingRule {
            v6,
            priority: PRIORITY,
            table: MAIN_TABLE,
            unmarked: None,
            no_defaults: true,
        };
        let exit = RoutingRule {
            priority: PRIORITY + 1,
            table: EXIT_TABLE,
            unmarked: Some(SOCKET_MARK),
            no_defaults: false,
            ..main
        };
        for rule in [main, exit] {
            match journal.add_routing_rule(owner, rule) {
                Err(e) if v6 => tracing::warn!("no exit for IPv6: {e}"),
                added => added?,
            }
        }
    }
    Ok(())
}

fn told(problems: Vec<String>) {
    for problem in problems {
        tracing::warn!("{problem}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(route: &str, remove: bool) -> OfferAsk {
        OfferAsk {
            route: route.to_owned(),
            remove,
            no_masquerade: route == "exit",
        }
    }

    #[test]
    fn routes_survive_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Routes::read(dir.path()), Ok(Routes::default()));
        let mut routes = Routes::default();
        for text in ["192.168.7.9/24", "fd00:7::/64", "exit"] {
            let route = text.parse().expect("a route");
            routes.offer(route, &offer(text, false)).expect("room");
        }
        let prefix = "10.1.0.0/16".parse().expect("a route");
        routes.accepted.push((prefix, PeerId::random()));
        routes.write(dir.path()).expect("writable");
        assert_eq!(Routes::read(dir.path()), Ok(routes.clone()));
        let shown: Vec<_> = routes.offers.iter().map(|o| o.route.to_string()).collect();
        assert_eq!(shown, ["192.168.7.0/24", "fd00:7::/64", "exit"]);
        assert!(routes.offers[0].masquerade && !routes.offers[2].masquerade);
        let exit = "exit".parse().expect("a route");
        assert_eq!(routes.offer(exit, &offer("exit", true)), Ok(()));
        let again = routes.offer(exit, &offer("exit", true));
        assert_eq!(again.map_err(|e| e.code), Err(Code::Usage));
        assert_eq!(routes.forget(prefix), Ok(()));
        assert_eq!(routes.forget(prefix).map_err(|e| e.code), Err(Code::Usage));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in ["", "10.0.0.0", "0.0.0.0/0", "::/0", "10.0.0.0/33", "Exit"] {
            assert_eq!(
                bad.parse::<Route>().map_err(|e| e.code),
                Err(Code::Usage),
                "{bad}"
            );
        }
        let mut routes = Routes::default();
        routes.accepted.push((Route::Exit, PeerId::random()));
        let both = routes.offer(Route::Exit, &offer("exit", false));
        assert_eq!(both.map_err(|e| e.code), Err(Code::Refused));
        let mut routes = Routes::default();
        let fit = (0..MAX_OFFERS).all(|n| {
            let text = format!("10.{n}.0.0/16");
            let route = text.parse().expect("a route");
            routes.offer(route, &offer(&text, false)).is_ok()
        });
        assert!(fit);
        let more = routes.offer(Route::Exit, &offer("exit", false));
        assert_eq!(more.map_err(|e| e.code), Err(Code::Limit));
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_line() {
        for (text, expected) in [
            (String::new(), "first line"),
            (format!("{HEADER}\noffer\n"), "line 2"),
            (format!("{HEADER}\noffer exit sometimes\n"), "line 2"),
            (format!("{HEADER}\n\naccept exit nobody\n"), "line 3"),
        ] {
            let error = Routes::parse(&text).expect_err("damaged");
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
