//! Private networks through the commands, and several networks in one daemon.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::harness::{Daemon, Deadline, Done, anyhop, run, string};

/// The keys of an object, sorted.
#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    object.keys().map(String::as_str).collect()
}

#[track_caller]
fn list(done: &Done) -> Vec<Value> {
    done.json().as_array().expect("a list").clone()
}

/// The text of a new invitation.
#[track_caller]
fn invite(daemon: &Daemon, network: &str, options: &[&str]) -> String {
    let args = [&["network", "invite", network], options].concat();
    string(&daemon.command(&args).ok().json()["invite"])
}

/// Waits until a command's JSON is as it should be.
#[track_caller]
pub(crate) fn until(
    daemon: &Daemon,
    args: &[&str],
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Deadline::new();
    loop {
        let value = daemon.command(args).ok().json();
        if holds(&value) {
            return value;
        }
        deadline.pause(&format!("{what}: {value}"));
    }
}

fn epoch_of(show: &Value) -> u64 {
    show["epoch"].as_u64().expect("a number")
}

/// An owner's daemon in the network `lab`, and a member's.
pub(crate) fn two() -> (Daemon, Daemon) {
    let owner = Daemon::start(&[]);
    owner.command(&["network", "create", "lab"]).ok();
    let member = Daemon::start(&[]);
    let text = invite(&owner, "lab", &[]);
    member
        .command(&["network", "join", &text, "--name", "m"])
        .ok();
    (owner, member)
}

#[test]
fn a_network_is_founded_joined_administered_and_left() {
    let owner = Daemon::start(&[]);
    founds(&owner);
    let text = invite(
        &owner,
        "lab",
        &["--uses", "2", "--expires", "1h", "--approve"],
    );
    let member = Daemon::start(&[]);
    approves(&owner, &member, &text);
    denies(&owner, &text);
    know_each_other_by_name(&owner, &member);
    administer(&owner, &member);
    revokes_and_leaves(&owner, &member);
}

#[track_caller]
fn founds(owner: &Daemon) {
    let created = owner.command(&["network", "create", "lab"]).ok().json();
    assert_eq!(keys(&created), ["addresses", "id", "network"]);
    assert_eq!(created["network"], "lab");
    let show = owner.command(&["network", "show", "lab"]).ok().json();
    for key in ["network", "id", "kind", "epoch", "role", "addresses"] {
        assert!(show.get(key).is_some(), "{key}: {show}");
    }
    assert_eq!(
        (&show["kind"], &show["role"]),
        (&"private".into(), &"owner".into())
    );
    assert_eq!(show["addresses"], created["addresses"]);
}

const REQUESTS: [&str; 3] = ["network", "requests", "lab"];
const SHOW: [&str; 3] = ["network", "show", "lab"];

#[track_caller]
fn approves(owner: &Daemon, member: &Daemon, text: &str) {
    let joining = member.spawn(&["network", "join", text, "--name", "bob"]);
    let waiting = until(owner, &REQUESTS, "a request", |r| {
        r.as_array().is_some_and(|r| r.len() == 1)
    });
    assert_eq!(waiting[0]["peer_id"], member.peer_id.as_str());
    assert_eq!(waiting[0]["name"], "bob");
    assert_eq!(
        member.command(&["network", "show", "lab"]).ok().json()["role"],
        "joining"
    );
    let approved = owner.command(&["network", "approve", "lab", "bob"]).ok();
    assert_eq!(approved.json()["peer_id"], member.peer_id.as_str());
    let joined = joining.finish().ok().json();
    assert_eq!(keys(&joined), ["network", "peer_id"]);
    assert_eq!(joined["peer_id"], member.peer_id.as_str());
}

#[track_caller]
fn denies(owner: &Daemon, text: &str) {
    let other = Daemon::start(&[]);
    let denied = other.spawn(&["network", "join", text]);
    until(owner, &REQUESTS, "another request", |r| {
        r.as_array().is_some_and(|r| r.len() == 1)
    });
    owner
        .command(&["network", "deny", "lab", &other.peer_id])
        .ok();
    assert_eq!(denied.finish().error(6)["code"], "refused");
    until(&other, &["network", "list"], "it is forgotten", |n| {
        n.as_array().is_some_and(|n| n.len() == 1)
    });
}

#[track_caller]
fn know_each_other_by_name(owner: &Daemon, member: &Daemon) {
    let members = list(&owner.command(&["network", "members", "lab"]).ok());
    for key in ["peer_id", "name", "role", "online", "expires"] {
        assert!(
            members.iter().all(|m| m.get(key).is_some()),
            "{key}: {members:?}"
        );
    }
    let mut names: Vec<_> = members.iter().map(|m| string(&m["name"])).collect();
    names.sort();
    assert_eq!(names, ["bob", "owner"]);
    owner
        .command(&["--network", "lab", "ping", "bob", "-c", "1"])
        .ok();
    let renamed = owner
        .command(&["network", "rename", "lab", "bob", "carl"])
        .ok();
    assert_eq!(renamed.json()["name"], "carl");
    until(
        member,
        &["network", "members", "lab"],
        "the new name",
        |m| m.to_string().contains("carl"),
    );
    // By a name that only members know.
    let sent = member
        .command(&["--network", "lab", "send", "owner", "hi"])
        .ok();
    assert_eq!(sent.json()["to"], owner.peer_id.as_str());
    let got = owner
        .command(&["recv", "--network", "lab", "--count", "1"])
        .ok();
    assert_eq!(got.json_lines()[0]["body"], "hi");
}

/// An ordinary member administers nothing, an admin does.
#[track_caller]
fn administer(owner: &Daemon, member: &Daemon) {
    let refused = member.command(&["network", "invite", "lab"]).error(6);
    assert_eq!(refused["code"], "refused");
    let admin = owner
        .command(&["network", "admin", "lab", "add", "carl"])
        .ok();
    assert_eq!(admin.json()["role"], "admin");
    until(member, &SHOW, "it is an admin", |s| s["role"] == "admin");
    invite(member, "lab", &[]);
    let rotated = member.command(&["network", "rotate", "lab"]).ok().json();
    assert_eq!(rotated["epoch"], 2);
    until(owner, &SHOW, "the new epoch", |s| epoch_of(s) == 2);
    let renewed = owner
        .command(&["network", "renew", "lab", "carl", "--expires", "2w"])
        .ok();
    let ends = list(&owner.command(&["network", "members", "lab"]).ok());
    let carl = ends.iter().find(|m| m["name"] == "carl");
    assert_eq!(
        renewed.json()["expires"],
        carl.expect("a member")["expires"]
    );
    let every = owner
        .command(&["network", "rotate", "lab", "--every", "7d"])
        .ok();
    assert_eq!(every.json()["every_s"], 604_800);
    let never = owner
        .command(&["network", "rotate", "lab", "--every", "never"])
        .ok();
    assert_eq!(never.json()["every_s"], Value::Null);
    owner
        .command(&["network", "admin", "lab", "remove", "carl"])
        .ok();
    until(member, &SHOW, "its term is over", |s| s["role"] == "member");
}

#[track_caller]
fn revokes_and_leaves(owner: &Daemon, member: &Daemon) {
    owner.command(&["network", "revoke", "lab", "carl"]).ok();
    let members = list(&owner.command(&["network", "members", "lab"]).ok());
    assert_eq!(members.len(), 1, "{members:?}");
    let unreachable = owner.command(&[
        "--network",
        "lab",
        "ping",
        &member.peer_id,
        "-c",
        "1",
        "--timeout",
        "1",
    ]);
    unreachable.error(1);

    for daemon in [owner, member] {
        let left = daemon.command(&["network", "leave", "lab"]).ok().json();
        assert_eq!(
            (&left["network"], &left["default"]),
            (&"lab".into(), &"main".into())
        );
        assert_eq!(daemon.command(&["status"]).ok().json()["network"], "main");
        let error = daemon.command(&SHOW).error(10);
        assert_eq!(error["code"], "no_network");
    }
}

#[test]
fn networks_of_one_daemon_share_nothing_and_a_command_names_one() {
    let (owner, member) = two();
    let status = |daemon: &Daemon, network: &[&str]| {
        let args = [&["status"], network].concat();
        daemon.command(&args).ok().json()
    };
    assert_eq!(status(&owner, &[])["network"], "main");
    assert_eq!(status(&owner, &["--network", "lab"])["network"], "lab");
    owner
        .command(&["ping", &member.peer_id, "-c", "1", "--network", "lab"])
        .ok();
    // Nothing is known of it in the public network.
    assert_eq!(
        owner.command(&["peers"]).ok().json(),
        Value::Array(Vec::new())
    );
    assert!(!list(&owner.command(&["peers", "--network", "lab"]).ok()).is_empty());
    let error = owner.command(&["ping", "m", "-c", "1"]).error(2);
    assert!(string(&error["message"]).contains("no name"), "{error}");
    assert!(string(&error["hint"]).contains("--network lab"), "{error}");
    // By id, as well.
    let networks = list(&owner.command(&["network", "list"]).ok());
    let (lab, main) = (&networks[0], &networks[1]);
    assert_eq!(
        (&lab["network"], &lab["default"]),
        (&"lab".into(), &false.into())
    );
    assert_eq!(
        (&main["network"], &main["default"]),
        (&"main".into(), &true.into())
    );
    let by_id = status(&owner, &["--network", &string(&lab["id"])]);
    assert_eq!(by_id["network"], "lab");
    // An unknown one is an error that lists them.
    let error = owner.command(&["status", "--network", "nowhere"]).error(10);
    assert_eq!(error["code"], "no_network");
    assert!(string(&error["hint"]).contains("lab, main"), "{error}");
    // What is about members is not about a public network.
    let error = owner.command(&["network", "members", "main"]).error(2);
    assert!(string(&error["message"]).contains("public"), "{error}");
    let error = owner.command(&["network", "leave", "main"]).error(6);
    assert!(error["hint"].is_string(), "{error}");
    let error = owner
        .command(&["network", "show", "lab", "--network", "main"])
        .error(2);
    assert!(error["hint"].is_string(), "{error}");
    let error = owner.command(&["network", "create", "lab"]).error(2);
    assert!(string(&error["message"]).contains("already"), "{error}");
}

#[test]
fn a_public_network_is_joined_by_its_name_and_comes_back_until_it_is_left() {
    let other = Daemon::start(&["--network", "testnet"]);
    let daemon = Daemon::start(&[]);
    let join = ["network", "join", "testnet", "--public"];
    let join = [&join[..], &["--bootstrap", &other.addresses[0]]].concat();
    let joined = daemon.command(&join).ok().json();
    assert_eq!(keys(&joined), ["network", "peer_id"]);
    assert_eq!(joined["peer_id"], daemon.peer_id.as_str());
    assert_eq!(daemon.command(&join).error(6)["code"], "refused");
    let ping = ["--network", "testnet", "ping", &other.peer_id, "-c", "1"];
    daemon.command(&ping).ok();
    let show = ["network", "show", "testnet"];
    let before = daemon.command(&show).ok().json();
    assert_eq!(
        (&before["kind"], &before["role"]),
        (&"public".into(), &Value::Null)
    );
    let daemon = Daemon::start_in(daemon.stop(), &[]);
    assert_eq!(daemon.command(&show).ok().json(), before);
    daemon.command(&ping).ok();
    // As the default one it has its bootstrap peers, too.
    let daemon = Daemon::start_in(daemon.stop(), &["--network", "testnet"]);
    daemon.command(&["ping", &other.peer_id, "-c", "1"]).ok();
    assert_eq!(list(&daemon.command(&["network", "list"]).ok()).len(), 1);
    let daemon = Daemon::start_in(daemon.stop(), &[]);
    daemon.command(&["network", "leave", "testnet"]).ok();
    let daemon = Daemon::start_in(daemon.stop(), &[]);
    daemon.command(&show).error(10);
    for bad in [
        &["network", "join", "Bad", "--public"][..],
        &["network", "join", "x", "--public", "--name", "y"],
    ] {
        daemon.command(bad).error(2);
    }
}

#[test]
fn of_two_networks_of_one_name_one_is_named_by_its_id() {
    let (owner, other) = (Daemon::start(&[]), Daemon::start(&[]));
    let create = ["network", "create", "lab"];
    let ids = [&owner, &other].map(|d| string(&d.command(&create).ok().json()["id"]));
    let text = invite(&owner, "lab", &[]);
    other.command(&["network", "join", &text]).ok();
    let error = other.command(&["network", "show", "lab"]).error(2);
    for id in &ids {
        assert!(string(&error["hint"]).contains(id), "{error}");
        let show = other.command(&["network", "show", id]).ok().json();
        assert_eq!(string(&show["id"]), *id);
    }
    let roles = ids.map(|id| other.command(&["network", "show", &id]).ok().json()["role"].clone());
    assert_eq!(roles, ["member", "owner"]);
}

#[test]
fn private_networks_come_back_at_the_same_ports_when_the_daemon_starts() {
    let (owner, member) = two();
    let show = ["network", "show", "lab"];
    let before = owner.command(&show).ok().json();
    let dir = owner.stop();
    let owner = Daemon::start_in(dir, &[]);
    assert_eq!(owner.command(&show).ok().json(), before);
    // It is found where it was.
    member
        .command(&["--network", "lab", "ping", "owner", "-c", "3"])
        .ok();

    // A private network can be the default one, and then there is no public one.
    let dir = owner.stop();
    let owner = Daemon::start_in(dir, &["--network", "lab"]);
    let networks = list(&owner.command(&["network", "list"]).ok());
    assert_eq!(networks.len(), 1, "{networks:?}");
    until(&owner, &["network", "members", "lab"], "it is back", |m| {
        let mut members = m.as_array().into_iter().flatten();
        members.any(|m| m["name"] == "m" && m["online"] == true)
    });
    owner.command(&["ping", "m", "-c", "1"]).ok();
    let left = owner.command(&["network", "leave", "lab"]).ok().json();
    assert_eq!(left["default"], "main");
    assert_eq!(owner.command(&["status"]).ok().json()["network"], "main");
}

#[test]
fn a_network_listens_where_it_is_told_from_then_on_or_is_not_there() {
    let daemon = Daemon::start(&[]);
    let taken = daemon.addresses[0].split('/').nth(4).expect("a port");
    let taken = format!("127.0.0.1:{taken}");
    let create = |at: &str| daemon.command(&["network", "create", "lab", "--listen", at]);
    let error = create(&taken).error(1);
    assert!(string(&error["message"]).contains(&taken), "{error}");
    let networks = list(&daemon.command(&["network", "list"]).ok());
    assert_eq!(networks.len(), 1, "{networks:?}");
    let at = ["--listen", "127.0.0.2:0", "--listen-ws", "127.0.0.3:0"];
    let create = [&["network", "create", "lab"][..], &at].concat();
    let created = daemon.command(&create).ok().json();
    let [udp, websocket] = [0, 1].map(|i| string(&created["addresses"][i]));
    assert!(udp.starts_with("/ip4/127.0.0.2/udp/"), "{udp}");
    assert!(websocket.starts_with("/ip4/127.0.0.3/tcp/"), "{websocket}");
    assert!(websocket.contains("/wss/"), "{websocket}");
    let dir = daemon.stop();
    let daemon = Daemon::start_in(dir, &[]);
    let show = daemon.command(&["network", "show", "lab"]).ok().json();
    assert_eq!(show["addresses"], created["addresses"]);
}

#[test]
fn public_networks_run_beside_each_other_in_one_daemon() {
    let up = ["testnet", "main", "testnet"].map(|n| ["--network", n]);
    let daemon = Daemon::start(up.as_flattened());
    let networks = list(&daemon.command(&["network", "list"]).ok());
    let told: Vec<_> = networks
        .iter()
        .map(|n| {
            (
                string(&n["network"]),
                n["default"] == true,
                string(&n["kind"]),
            )
        })
        .collect();
    let public = || "public".to_owned();
    assert_eq!(
        told,
        [
            ("main".to_owned(), false, public()),
            ("testnet".to_owned(), true, public())
        ]
    );
    assert_eq!(
        daemon.command(&["status"]).ok().json()["network"],
        "testnet"
    );
    let left = daemon.command(&["network", "leave", "main"]).ok().json();
    assert_eq!(left["default"], "testnet");
}

#[test]
fn a_join_says_by_its_exit_code_what_came_of_it() {
    let owner = Daemon::start(&[]);
    owner.command(&["network", "create", "lab"]).ok();
    let joiner = Daemon::start(&[]);
    let join = |text: &str, rest: &[&str]| {
        let args = [&["network", "join", text], rest].concat();
        joiner.command(&args)
    };
    assert_eq!(join("nonsense", &[]).error(2)["code"], "usage");
    let once = invite(&owner, "lab", &[]);
    let mut forged = once.clone();
    let last = if forged.pop() == Some('a') { 'b' } else { 'a' };
    forged.push(last);
    assert_eq!(join(&forged, &[]).error(2)["code"], "usage");
    // Redeemed by another one before.
    let other = Daemon::start(&[]);
    other.command(&["network", "join", &once]).ok();
    assert_eq!(join(&once, &[]).error(6)["code"], "refused");

    let short = invite(&owner, "lab", &["--expires", "1s"]);
    let deadline = Deadline::new();
    let expired = loop {
        let done = join(&short, &["--timeout", "0"]);
        if done.code != Some(7) {
            break done;
        }
        // The first attempt may still be under way, and must not go through.
        deadline.pause("the end of an invitation");
    };
    // In time, or too late: a second is a short time for a busy machine.
    assert!(matches!(expired.code, Some(0 | 6)), "{expired:?}");
    let _ = joiner.command(&["network", "leave", "lab"]);

    let late = invite(&owner, "lab", &["--approve"]);
    let error = join(&late, &["--timeout", "0.5"]).error(7);
    assert_eq!(error["code"], "timeout");
    assert!(string(&error["hint"]).contains("leave lab"), "{error}");
    // The daemon goes on, and the same command finds it.
    let again = joiner.spawn(&["network", "join", &late]);
    let requests = ["network", "requests", "lab"];
    until(&owner, &requests, "a request", |r| {
        r.as_array().is_some_and(|r| r.len() == 1)
    });
    owner
        .command(&["network", "approve", "lab", &joiner.peer_id])
        .ok();
    again.finish().ok();
    let error = join(&late, &[]).error(6);
    assert!(string(&error["message"]).contains("already"), "{error}");
    assert!(invite(&owner, "lab", &[]).len() > 100);
}

#[test]
fn a_backup_restores_the_network_under_its_passphrase_only() {
    let (owner, member) = two();
    let secret = owner.path().join("passphrase");
    fs::write(&secret, "correct horse\n").expect("writable");
    let (secret, backup) = (path(&secret), owner.path().join("backup"));
    let out = path(&backup);
    let export = ["network", "export", "lab", "--passphrase-file", &secret];
    let text = owner.command(&export).ok().json();
    assert_eq!(keys(&text), ["backup", "id", "network"]);
    let to_file = [&export[..], &["--out", &out]].concat();
    owner.command(&to_file).ok();
    let mode = fs::metadata(&backup).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!fs::read_to_string(&backup).expect("text").contains("lab"));
    assert_eq!(
        owner.command(&to_file).error(2)["code"],
        "usage",
        "it is not overwritten"
    );
    // From no arguments, and not from a pipe by accident.
    let error = owner.command(&["network", "export", "lab"]).error(2);
    assert!(
        string(&error["hint"]).contains("--passphrase-file"),
        "{error}"
    );
    let error = member.command(&export).error(6);
    assert_eq!(error["code"], "refused");

    let spare = Daemon::start(&[]);
    let wrong = spare.path().join("wrong");
    fs::write(&wrong, "correct house\n").expect("writable");
    let error = spare
        .command(&[
            "network",
            "import",
            &out,
            "--passphrase-file",
            &path(&wrong),
        ])
        .error(2);
    assert!(string(&error["message"]).contains("passphrase"), "{error}");
    let import = [
        "network",
        "import",
        &out,
        "--passphrase-file",
        &secret,
        "--name",
        "spare",
    ];
    let restored = spare.command(&import).ok().json();
    assert_eq!(keys(&restored), ["addresses", "id", "network"]);
    assert_eq!(restored["id"], text["id"]);
    let show = spare.command(&["network", "show", "lab"]).ok().json();
    assert_eq!(show["role"], "owner");
    let members = spare.command(&["network", "members", "lab"]).ok();
    for name in ["owner", "m", "spare"] {
        assert!(
            members.text().contains(&format!("\"{name}\"")),
            "{members:?}"
        );
    }
}

#[test]
fn a_network_begins_with_a_swarm_key_of_libp2p_and_gives_its_own_away() {
    let owner = Daemon::start(&[]);
    let file = owner.path().join("swarm.key");
    let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "0a".repeat(32));
    fs::write(&file, &text).expect("writable");
    let create = ["network", "create", "lab", "--swarm-key"];
    owner.command(&[&create[..], &[&path(&file)]].concat()).ok();
    let export = ["network", "export", "lab", "--swarm-key"];
    let key = owner.command(&export).ok().json();
    assert_eq!(keys(&key), ["epoch", "id", "network", "swarm_key"]);
    assert_eq!(string(&key["swarm_key"]).trim_end(), text.trim_end());
    assert_eq!(key["epoch"], 1);
    owner.command(&["network", "rotate", "lab"]).ok();
    let out = owner.path().join("next.key");
    owner
        .command(&[&export[..], &["--out", &path(&out)]].concat())
        .ok();
    let mode = fs::metadata(&out).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let next = fs::read_to_string(&out).expect("text");
    assert!(
        next.starts_with("/key/swarm/psk/1.0.0/\n/base16/\n"),
        "{next}"
    );
    assert_ne!(
        next.trim_end(),
        text.trim_end(),
        "another epoch, another key"
    );

    fs::write(&file, "/key/swarm/psk/1.0.0/\n/base16/\nno key\n").expect("writable");
    let other = ["network", "create", "other", "--swarm-key"];
    let error = owner
        .command(&[&other[..], &[&path(&file)]].concat())
        .error(2);
    assert!(
        string(&error["message"]).contains("no swarm key"),
        "{error}"
    );
    let error = owner
        .command(&[&other[..], &["/nowhere"]].concat())
        .error(2);
    assert!(string(&error["message"]).contains("/nowhere"), "{error}");
}

fn path(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[test]
fn what_a_member_does_for_others_is_chosen_and_changed_while_it_runs() {
    let owner = Daemon::start(&[]);
    let create = ["network", "create", "lab", "--no-relaying", "--unlisted"];
    owner.command(&create).ok();
    let relays = |daemon: &Daemon| {
        let status = daemon.command(&["status", "--network", "lab"]).ok().json();
        status["relay"]["enabled"] == true
    };
    assert!(!relays(&owner));
    let set = |daemon: &Daemon, rest: &[&str]| {
        let args = [&["network", "set", "lab"], rest].concat();
        daemon.command(&args)
    };
    let shown = set(&owner, &[]).ok().json();
    assert_eq!(shown["peer_id"], owner.peer_id.as_str());
    let told = |v: &Value| ["relaying", "signalling", "listed"].map(|k| v[k] == true);
    assert_eq!(told(&shown), [false, true, false]);
    let changed = set(&owner, &["--relaying", "on", "--signalling", "off"]).ok();
    assert_eq!(told(&changed.json()), [true, false, false]);
    assert!(relays(&owner));
    // In its own network it still relays.
    let status = owner.command(&["status"]).ok().json();
    assert_eq!(status["relay"]["enabled"], true);

    let member = Daemon::start(&[]);
    let text = invite(&owner, "lab", &[]);
    member
        .command(&["network", "join", &text, "--name", "m"])
        .ok();
    // Who is not listed is seen by who administers the network only.
    until(&member, &["network", "members", "lab"], "itself", |m| {
        m.as_array().is_some_and(|m| m.len() == 1)
    });
    let members = list(&owner.command(&["network", "members", "lab"]).ok());
    assert_eq!(members.len(), 2, "{members:?}");
    set(&owner, &["m", "--relaying", "off"]).ok();
    let deadline = Deadline::new();
    while relays(&member) {
        deadline.pause("what is certified reaches the member");
    }
    let error = set(&member, &["--relaying", "on"]).error(6);
    assert_eq!(error["code"], "refused");
}

#[test]
fn people_read_tables_and_errors_with_hints() {
    let (owner, _member) = two();
    let text = |args: &[&str]| {
        let done = run(anyhop(owner.path()).args(args)).ok();
        done.text().to_owned()
    };
    let networks = text(&["network", "list"]);
    let mut lines = networks.lines();
    let head: Vec<_> = lines.next().expect("a head").split_whitespace().collect();
    assert_eq!(head, ["NAME", "KIND", "ROLE", "EPOCH", "ID"]);
    assert!(
        lines.any(|l| l.starts_with("*  main  public")),
        "{networks}"
    );
    let members = text(&["network", "members", "lab"]);
    assert!(members.starts_with("NAME "), "{members}");
    assert!(members.contains(" UTC "), "{members}");
    let shown = text(&["network", "show", "lab"]);
    assert!(shown.contains("role         owner"), "{shown}");
    assert_eq!(text(&["network", "requests", "lab"]), "nobody waits\n");
    // The invitation alone, to be piped on; the picture is for terminals.
    let invite = text(&["network", "invite", "lab"]);
    assert_eq!(invite.lines().count(), 1);
    assert!(invite.starts_with("anyhop-invite:"), "{invite}");
    let done = run(anyhop(owner.path()).args(["status", "--network", "nowhere"]));
    assert_eq!(done.code, Some(10));
    assert!(
        done.stderr.contains("\nhint: it is in: lab, main"),
        "{done:?}"
    );
}

#[test]
fn a_damaged_network_is_told_and_keeps_no_other_from_coming_back() {
    let daemon = Daemon::start(&[]);
    for name in ["one", "two"] {
        daemon.command(&["network", "create", name]).ok();
    }
    let show = daemon.command(&["network", "show", "one"]).ok().json();
    let file = daemon
        .path()
        .join("networks")
        .join(string(&show["id"]))
        .join("network");
    let dir = daemon.stop();
    let good = fs::read(&file).expect("it is there");
    let damaged = &good[..good.len() - 1];
    fs::write(&file, damaged).expect("writable");
    // It might be the one that is named, and must not become a public one.
    let up = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--network",
        "one",
        "--json",
    ];
    let error = run(anyhop(dir.path()).args(up)).error(5);
    assert!(error["hint"].is_string(), "{error}");
    let daemon = Daemon::start_in(dir, &[]);
    let failed: Value = serde_json::from_str(&daemon.events.until("network_failed")).expect("JSON");
    assert_eq!(failed["error"]["code"], "state_dir");
    daemon.command(&["network", "show", "two"]).ok();
    daemon.command(&["network", "show", "one"]).error(10);
    assert_eq!(fs::read(&file).expect("still there"), damaged);
}
