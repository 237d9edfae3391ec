use proptest::prelude::*;

use super::*;
use crate::network::statement::{Policy, Signer};
use crate::network::testing::{NOW, charter, keypair, peer};

const OWNER: u8 = 2;
const ADMIN: u8 = 3;
const OTHER_ADMIN: u8 = 4;

fn certificate(of: u8, name: &str) -> Certificate {
    Certificate {
        peer: peer(of),
        version: 0,
        name: name.parse().unwrap(),
        role: Role::Member,
        overlay: Vec::new(),
        opt_outs: OptOuts::default(),
        issued_unix_s: NOW,
        expires_unix_s: NOW + 3600,
    }
}

fn as_authority(body: Body) -> Statement {
    let signer = Signer::Authority(keypair(1));
    Statement::sign(body, &signer, &charter()).unwrap()
}

fn appointed(admin: u8, term: u64, standing: bool) -> Statement {
    as_authority(Body::Appointment(Appointment {
        admin: peer(admin),
        term,
        standing,
        issued_unix_s: NOW,
    }))
}

fn as_admin(admin: u8, term: u64, body: Body) -> Statement {
    let signer = Signer::Admin {
        keypair: keypair(admin),
        appointment: Arc::new(appointed(admin, term, true)),
    };
    Statement::sign(body, &signer, &charter()).unwrap()
}

fn in_term(admin: u8, term: u64) -> Issuer {
    let peer = peer(admin);
    Issuer::Admin { peer, term }
}

fn revoked(of: u8, version: u64) -> Body {
    Body::Revocation(Revocation {
        peer: peer(of),
        version,
        issued_unix_s: NOW,
    })
}

fn epoch(number: u32, key: u8) -> Body {
    Body::Epoch(EpochNotice {
        epoch: Epoch(number),
        key: KeyId([key; 32]),
        issued_unix_s: NOW,
    })
}

/// A network with an owner and two admins.
fn founded() -> Membership {
    let mut network = Membership::new(charter());
    let owner = Certificate {
        role: Role::Owner,
        ..certificate(OWNER, "owner")
    };
    let body = network.certify(owner, Issuer::Authority).unwrap();
    assert_eq!(network.merge(as_authority(body)), Merged::News);
    for admin in [ADMIN, OTHER_ADMIN] {
        let name = format!("admin-{admin}");
        let body = network.certify(certificate(admin, &name), Issuer::Authority);
        network.merge(as_authority(body.unwrap()));
        let body = network.appoint_admin(peer(admin), NOW).unwrap();
        assert_eq!(network.merge(as_authority(body)), Merged::News);
    }
    network
}

fn admit(network: &mut Membership, of: u8, name: &str, by: u8) {
    let body = network.certify(certificate(of, name), in_term(by, 1));
    network.merge(as_admin(by, 1, body.unwrap()));
}

fn name_of(network: &Membership, of: u8) -> String {
    let members = network.members();
    let member = members.iter().find(|m| m.peer == peer(of)).unwrap();
    member.name.clone()
}

#[test]
fn members_have_names_roles_and_a_time() {
    let mut network = founded();
    admit(&mut network, 10, "laptop", ADMIN);
    let roles: Vec<_> = [OWNER, ADMIN, 10, 11]
        .iter()
        .map(|p| network.role(peer(*p)))
        .collect();
    let expected = [
        Some(Role::Owner),
        Some(Role::Admin),
        Some(Role::Member),
        None,
    ];
    assert_eq!(roles, expected);
    assert_eq!(network.members().len(), 4);
    assert_eq!(name_of(&network, 10), "laptop");
    assert_eq!(network.standing(peer(10), NOW), Standing::Member);
    assert_eq!(network.standing(peer(10), NOW + 3600), Standing::Expired);
    assert_eq!(network.standing(peer(11), NOW), Standing::Unknown);
}

#[test]
fn a_revoked_member_is_none_until_it_is_certified_anew() {
    let mut network = founded();
    admit(&mut network, 10, "laptop", ADMIN);
    let old = network.certificate(peer(10)).unwrap().clone();
    let body = network
        .revocation(peer(10), in_term(OTHER_ADMIN, 1), NOW)
        .unwrap();
    network.merge(as_admin(OTHER_ADMIN, 1, body));
    assert_eq!(network.standing(peer(10), NOW), Standing::Revoked);
    assert_eq!(network.members().len(), 3);
    // Its old certificate is worth nothing, wherever it comes from.
    network.merge(old);
    assert_eq!(network.standing(peer(10), NOW), Standing::Revoked);
    admit(&mut network, 10, "laptop", ADMIN);
    assert_eq!(network.standing(peer(10), NOW), Standing::Member);
}

#[test]
fn admins_have_no_say_about_the_owner_and_other_admins() {
    let mut network = founded();
    let issuer = in_term(ADMIN, 1);
    assert_eq!(
        network.revocation(peer(OWNER), issuer, NOW),
        Err(MembershipError::Owner(peer(OWNER)))
    );
    assert_eq!(
        network.revocation(peer(OTHER_ADMIN), issuer, NOW),
        Err(MembershipError::Admin(peer(OTHER_ADMIN)))
    );
    // Nor if they say it regardless.
    for target in [OWNER, OTHER_ADMIN] {
        network.merge(as_admin(ADMIN, 1, revoked(target, 99)));
        assert_eq!(network.standing(peer(target), NOW), Standing::Member);
    }
    let body = network.revocation(peer(OTHER_ADMIN), Issuer::Authority, NOW);
    network.merge(as_authority(body.unwrap()));
    assert_eq!(network.standing(peer(OTHER_ADMIN), NOW), Standing::Revoked);
}

#[test]
fn a_removed_admins_signatures_are_worth_nothing_and_what_shall_stay_is_signed_anew() {
    let mut network = founded();
    admit(&mut network, 10, "laptop", ADMIN);
    admit(&mut network, 11, "phone", ADMIN);
    let body = network.revocation(peer(11), in_term(ADMIN, 1), NOW);
    network.merge(as_admin(ADMIN, 1, body.unwrap()));
    network.merge(as_admin(ADMIN, 1, epoch(2, 7)));
    for body in network.removal(peer(ADMIN), NOW).unwrap() {
        assert_eq!(network.standing(peer(10), NOW), Standing::Member);
        network.merge(as_authority(body));
    }
    assert_eq!(network.role(peer(ADMIN)), Some(Role::Member));
    assert_eq!(network.standing(peer(10), NOW), Standing::Member);
    assert_eq!(network.standing(peer(11), NOW), Standing::Revoked);
    assert_eq!(network.epoch(), Some((Epoch(2), KeyId([7; 32]))));
    let late = as_admin(ADMIN, 1, Body::Certificate(certificate(12, "late")));
    assert_eq!(network.merge(late), Merged::Void);
    assert_eq!(network.standing(peer(12), NOW), Standing::Unknown);
    // A new term does not bring the old one back.
    let body = network.appoint_admin(peer(ADMIN), NOW).unwrap();
    network.merge(as_authority(body));
    let late = as_admin(ADMIN, 1, Body::Certificate(certificate(12, "late")));
    assert_eq!(network.merge(late), Merged::Void);
    let now = as_admin(ADMIN, 2, Body::Certificate(certificate(12, "now")));
    assert_eq!(network.merge(now), Merged::News);
}

#[test]
fn of_members_with_one_name_the_one_certified_first_has_it() {
    let mut network = founded();
    let first = Certificate {
        issued_unix_s: NOW - 1,
        ..certificate(11, "laptop")
    };
    admit(&mut network, 10, "laptop", ADMIN);
    let taken = network.certify(first.clone(), in_term(OTHER_ADMIN, 1));
    assert_eq!(
        taken,
        Err(MembershipError::NameTaken {
            name: "laptop".parse().unwrap(),
            by: peer(10),
        })
    );
    // Two admins that did not know of each other.
    let body = Body::Certificate(first);
    network.merge(as_admin(OTHER_ADMIN, 1, body));
    assert_eq!(name_of(&network, 11), "laptop");
    let other = name_of(&network, 10);
    assert!(other.starts_with("laptop-"), "{other}");
    let free = network.free_name(&"laptop".parse().unwrap(), peer(12));
    assert!(free.as_str().starts_with("laptop-"), "{free}");
    assert_eq!(
        network
            .free_name(&"tablet".parse().unwrap(), peer(12))
            .as_str(),
        "tablet"
    );
}

#[test]
fn an_overlay_address_belongs_to_one_member() {
    let mut network = founded();
    let both = "10.0.0.1".parse().unwrap();
    let own = "10.0.0.2".parse().unwrap();
    for (of, at) in [(10, 1), (11, 0)] {
        let certificate = Certificate {
            overlay: vec![both, own],
            issued_unix_s: NOW + at,
            ..certificate(of, &format!("host-{of}"))
        };
        network.merge(as_authority(Body::Certificate(certificate)));
    }
    let members = network.members();
    let overlay = |of| {
        let member = members.iter().find(|m| m.peer == peer(of)).unwrap();
        member.overlay.clone()
    };
    assert_eq!((overlay(11), overlay(10)), (vec![both, own], vec![]));
}

#[test]
fn of_two_keys_for_one_epoch_everybody_takes_the_same() {
    let mut network = founded();
    network.merge(as_authority(epoch(1, 9)));
    network.merge(as_admin(ADMIN, 1, epoch(2, 8)));
    network.merge(as_admin(OTHER_ADMIN, 1, epoch(2, 5)));
    assert_eq!(network.epoch(), Some((Epoch(2), KeyId([5; 32]))));
    network.merge(as_authority(epoch(3, 200)));
    assert_eq!(network.epoch(), Some((Epoch(3), KeyId([200; 32]))));
}

fn change(network: &mut Membership, change: PolicyChange, by: u8) {
    let body = network.change_policy(change, NOW).unwrap();
    network.merge(as_admin(by, 1, body));
}

fn add(rule: &str, first: bool) -> PolicyChange {
    let rule = rule.parse().unwrap();
    PolicyChange::Add { rule, first }
}

#[test]
fn the_latest_policy_holds_and_outlives_the_term_of_who_signed_it() {
    let mut network = founded();
    assert_eq!(network.policy(), None);
    change(&mut network, add("deny in any tcp 22", false), ADMIN);
    change(
        &mut network,
        add("allow in role:admin tcp 22", true),
        OTHER_ADMIN,
    );
    change(
        &mut network,
        PolicyChange::Default(Some(anyhop_base::Verdict::Deny)),
        ADMIN,
    );
    let rules = |network: &Membership| {
        let rules = &network.policy().unwrap().rules;
        rules
            .iter()
            .map(|r| (r.id, r.rule.to_string()))
            .collect::<Vec<_>>()
    };
    let both = vec![
        (2, "allow in role:admin tcp 22".to_owned()),
        (1, "deny in any tcp 22".to_owned()),
    ];
    assert_eq!(rules(&network), both);
    for body in network.removal(peer(ADMIN), NOW).unwrap() {
        network.merge(as_authority(body));
    }
    assert_eq!(rules(&network), both);
    let late = Body::Policy(Policy {
        version: 99,
        ..Policy::default()
    });
    assert_eq!(network.merge(as_admin(ADMIN, 1, late)), Merged::Void);
    change(&mut network, PolicyChange::Remove(1), OTHER_ADMIN);
    assert_eq!(rules(&network), both[..1]);
    let gone = network.change_policy(PolicyChange::Remove(1), NOW);
    assert_eq!(gone, Err(MembershipError::NoRule(1)));
    assert_eq!(network.policy().unwrap().version, 4);
}

#[test]
fn limits_are_kept_by_the_same_rule_everywhere() {
    let admins: Vec<_> = (10..10 + MAX_ADMINS as u8 + 4).collect();
    let mut forward = founded();
    let mut backward = founded();
    for admin in &admins {
        forward.merge(appointed(*admin, 1, true));
    }
    for admin in admins.iter().rev() {
        backward.merge(appointed(*admin, 1, true));
    }
    assert_eq!(forward, backward);
    assert_eq!(forward.digest(), backward.digest());
    let kept = forward.statements().filter(|s| appointment_in(s).is_some());
    assert_eq!(kept.count(), MAX_ADMINS);
    let newcomer = 200;
    forward.merge(as_authority(Body::Certificate(certificate(
        newcomer, "new",
    ))));
    assert_eq!(
        forward.appoint_admin(peer(newcomer), NOW),
        Err(MembershipError::Full {
            what: "admins",
            limit: MAX_ADMINS
        })
    );
}

#[test]
fn every_statement_is_found_by_its_id_in_its_bucket() {
    let mut network = founded();
    admit(&mut network, 10, "laptop", ADMIN);
    network.merge(as_authority(epoch(1, 1)));
    let digests = network.bucket_digests();
    let mut found = 0;
    for bucket in 0..=u8::MAX {
        let mut digest = Digest::default();
        for id in network.bucket(bucket) {
            assert_eq!(id[0], bucket);
            assert_eq!(network.get(id).unwrap().id(), *id);
            toggle(&mut digest, id);
            found += 1;
        }
        assert_eq!(digest, digests[usize::from(bucket)]);
    }
    assert_eq!(found, network.statements().count());
}

/// Statements that contradict each other in every way there is.
fn any_statement() -> impl Strategy<Value = Statement> {
    let issuer = prop_oneof![
        Just(None),
        (prop_oneof![Just(ADMIN), Just(OTHER_ADMIN)], 1..3_u64).prop_map(Some)
    ];
    let about = (0..5_u8, 5..9_u8, 1..4_u64, 0..3_u8);
    (issuer, about).prop_map(|(issuer, (kind, of, number, other))| {
        let body = match kind {
            0 => revoked(of, number),
            1 => epoch(number as u32, other),
            4 => Body::Policy(Policy {
                version: number,
                issued_unix_s: u64::from(other),
                ..Policy::default()
            }),
            2 if issuer.is_none() => {
                let admin = if other == 0 { ADMIN } else { OTHER_ADMIN };
                appointed(admin, number, of % 2 == 0).body().clone()
            }
            _ => Body::Certificate(Certificate {
                version: number,
                role: if issuer.is_none() && other == 0 {
                    Role::Owner
                } else {
                    Role::Member
                },
                issued_unix_s: NOW + u64::from(other),
                ..certificate(of, ["a", "b", "c"][usize::from(other)])
            }),
        };
        match issuer {
            None => as_authority(body),
            Some((admin, term)) => as_admin(admin, term, body),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_and_repetition_of_statements_ends_in_the_same_state(
        (statements, shuffled) in prop::collection::vec(any_statement(), 0..24)
            .prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut one = Membership::new(charter());
        let mut other = Membership::new(charter());
        for statement in &statements {
            one.merge(statement.clone());
        }
        for (n, statement) in shuffled.iter().enumerate() {
            other.merge(statement.clone());
            if let Some(index) = again.get(n) {
                other.merge(shuffled[index.index(n + 1)].clone());
            }
        }
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one.members(), other.members());
        prop_assert_eq!(one.epoch(), other.epoch());
        prop_assert_eq!(one.policy(), other.policy());
        // What one tells is all that another needs.
        let mut told = Membership::new(charter());
        for statement in one.statements() {
            prop_assert_eq!(told.merge(statement.clone()), Merged::News);
        }
        prop_assert_eq!(&told, &one);
        let mut names: Vec<_> = one.members().into_iter().map(|m| m.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), count);
    }
}
