//! Firewall rules through the commands: whose they are, which decides, and that they stay.

use serde_json::{Value, json};

use crate::{
    harness::Daemon,
    networks::{two, until},
};

/// Commands are about the private network.
fn firewall(daemon: &Daemon, args: &[&str]) -> Value {
    let done = daemon.command(&[&["firewall"], args].concat());
    done.ok().json()
}

fn refused(daemon: &Daemon, args: &[&str], exit: i32) -> Value {
    let done = daemon.command(&[&["firewall"], args].concat());
    done.error(exit)
}

fn test(daemon: &Daemon, from: &str, port: &str) -> (Value, Value, Value) {
    let told = firewall(
        daemon,
        &["test", "--from", from, "--proto", "tcp", "--port", port],
    );
    let of = |key: &str| told[key].clone();
    (of("verdict"), of("source"), told["rule"]["id"].clone())
}

#[test]
fn the_rule_that_decides_is_told_and_rules_outlive_the_daemon() {
    let (owner, member) = two();
    let open = firewall(&member, &["list"]);
    let expected =
        json!({"network": "lab", "default": "allow", "default_source": null, "rules": []});
    assert_eq!(open, expected);
    let allowed = [
        "allow", "--member", "owner", "--proto", "tcp", "--port", "22",
    ];
    let added = firewall(&member, &allowed);
    let expected = json!({
        "id": "1", "source": "local", "verdict": "allow", "direction": "in", "name": null, "role": null,
        "member": owner.peer_id, "protocol": "tcp", "port": "22",
    });
    assert_eq!(added, expected);
    firewall(&member, &["deny", "--role", "owner", "--port", "20-30"]);
    firewall(
        &member,
        &["deny", "--proto", "icmp", "--direction", "both", "--first"],
    );
    let closed = firewall(&member, &["default", "deny"]);
    assert_eq!(closed["default_source"], "local");
    let (allow, deny) = (json!("allow"), json!("deny"));
    let expect = |daemon: &Daemon| {
        let local = json!("local");
        assert_eq!(
            test(daemon, "owner", "22"),
            (allow.clone(), local.clone(), json!("1"))
        );
        assert_eq!(
            test(daemon, "owner", "23"),
            (deny.clone(), local.clone(), json!("2"))
        );
        assert_eq!(
            test(daemon, "owner", "31"),
            (deny.clone(), local, Value::Null)
        );
        let out = [
            "test",
            "--from",
            "owner",
            "--proto",
            "icmp",
            "--direction",
            "out",
        ];
        assert_eq!(firewall(daemon, &out)["rule"]["id"], "3");
    };
    expect(&member);
    let before = firewall(&member, &["list"]);
    let ids: Vec<_> = before["rules"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| &r["id"])
        .collect();
    assert_eq!(ids, ["3", "1", "2"]);
    let member = Daemon::start_in(member.stop(), &["--network", "lab"]);
    assert_eq!(firewall(&member, &["list"]), before);
    until(&member, &["network", "members", "lab"], "the owner", |m| {
        m.as_array().is_some_and(|m| m.len() == 2)
    });
    expect(&member);
    assert_eq!(firewall(&member, &["remove", "2"])["verdict"], "deny");
    assert_eq!(refused(&member, &["remove", "2"], 2)["code"], "usage");
    let next = firewall(&member, &["deny"]);
    assert_eq!(next["id"], "4", "an id is not given twice");
}

#[test]
fn a_policy_of_the_owner_reaches_members_and_their_own_rules_come_first() {
    let (owner, member) = two();
    let wide = ["deny", "--network-wide", "--proto", "tcp", "--port", "22"];
    let added = firewall(&owner, &wide);
    assert_eq!(
        (&added["id"], &added["source"]),
        (&json!("n1"), &json!("network"))
    );
    firewall(&owner, &["default", "deny", "--network-wide"]);
    let list = ["firewall", "list"];
    until(&member, &list, "the policy", |l| l["default"] == "deny");
    let (allow, deny, network) = (json!("allow"), json!("deny"), json!("network"));
    assert_eq!(
        test(&member, "owner", "22"),
        (deny.clone(), network.clone(), json!("n1"))
    );
    assert_eq!(test(&member, "owner", "23"), (deny, network, Value::Null));
    firewall(&member, &["allow", "--name", "owner", "--port", "22"]);
    assert_eq!(
        test(&member, "owner", "22"),
        (allow, json!("local"), json!("1"))
    );
    // What is signed is the owner's and admins' to say.
    for args in [
        &wide[..],
        &["remove", "n1"],
        &["default", "allow", "--network-wide"],
    ] {
        assert_eq!(refused(&member, args, 6)["code"], "refused");
    }
    firewall(&owner, &["remove", "n1"]);
    until(&member, &list, "the policy without it", |l| {
        l["rules"].as_array().is_some_and(|r| r.len() == 1)
    });
}

#[test]
fn what_cannot_be_a_rule_or_a_packet_is_refused() {
    let (owner, _member) = two();
    refused(&owner, &["allow", "--proto", "icmp", "--port", "22"], 2);
    refused(&owner, &["allow", "--name", "Bob"], 2);
    refused(&owner, &["allow", "--member", "nobody"], 2);
    refused(&owner, &["remove", "7"], 2);
    refused(&owner, &["remove", "n7"], 2);
    refused(&owner, &["remove", "all"], 2);
    refused(&owner, &["test", "--from", "m", "--proto", "tcp"], 2);
    refused(
        &owner,
        &["test", "--from", "m", "--proto", "icmp", "--port", "1"],
        2,
    );
    let stranger = crate::harness::absent_peer();
    let told = firewall(&owner, &["test", "--from", &stranger, "--proto", "icmp"]);
    assert_eq!(told["verdict"], "deny");
}
