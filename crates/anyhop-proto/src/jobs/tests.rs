use proptest::{collection::vec, prelude::*};

use super::*;

const TOPIC: TopicId = TopicId([7; 32]);
const NOW: u64 = 1_800_000_000;

fn peer(n: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, n]).unwrap()
}

fn job(nonce: u64, expires_unix_s: u64) -> Job {
    Job {
        nonce,
        kind: "k".to_owned(),
        constraints: Vec::new(),
        expires_unix_s,
        exclude: vec![peer(9)],
        encoding: 0,
        body: Vec::new(),
    }
}

fn bid(job: JobId) -> Bid {
    Bid {
        job,
        encoding: 0,
        body: b"mine".to_vec(),
    }
}

fn publish(jobs: &mut Jobs, now: u64, job: &Job) -> Result<JobId, NotNow> {
    jobs.publish(now, TOPIC, job, &job.encode().unwrap())
}

fn show(jobs: &mut Jobs, now: u64, from: PeerId, job: &Job) -> Result<JobId, Passed> {
    let shown = jobs.handle_job(now, TOPIC, from, &job.encode().unwrap());
    shown.map(|(id, _)| id)
}

#[test]
fn a_job_is_bid_on_once_and_its_publisher_may_then_hand_out_the_work() {
    let (mut publisher, mut worker) = (Jobs::new(peer(1)), Jobs::new(peer(2)));
    let job = job(1, NOW + 60);
    let id = publish(&mut publisher, NOW, &job).unwrap();
    assert_eq!(show(&mut worker, NOW, peer(1), &job), Ok(id));
    assert!(!worker.may_work(NOW, peer(1), id));
    assert_eq!(worker.begin_bid(NOW, id), Ok(peer(1)));
    assert_eq!(worker.begin_bid(NOW, id), Err(NotNow::Answered));
    let verdict = publisher.handle_bid(NOW, peer(2), bid(id));
    assert_eq!(verdict, BidVerdict::Taken);
    worker.end_bid(id, Some(verdict));
    assert_eq!(show(&mut worker, NOW, peer(1), &job), Err(Passed::Answered));
    assert!(worker.may_work(NOW, peer(1), id));
    assert!(!worker.may_work(NOW, peer(3), id), "not its publisher");
    assert_eq!(publisher.bids(id).unwrap(), [(peer(2), bid(id))]);
}

#[test]
fn own_excluding_expired_and_far_off_jobs_are_passed_over() {
    let mut jobs = Jobs::new(peer(9));
    let mut open = job(1, NOW + 60);
    assert_eq!(show(&mut jobs, NOW, peer(1), &open), Err(Passed::Excluded));
    open.exclude.clear();
    let cases = [
        (peer(9), NOW + 60, Passed::Own),
        (peer(1), NOW, Passed::Expired),
        (
            peer(1),
            NOW + MAX_JOB_LIFETIME_S + MAX_JOB_SKEW_S + 1,
            Passed::ExpiresTooLate,
        ),
    ];
    for (from, expires, passed) in cases {
        open.expires_unix_s = expires;
        assert_eq!(show(&mut jobs, NOW, from, &open), Err(passed));
    }
    let malformed = jobs.handle_job(NOW, TOPIC, peer(1), &[0xff]);
    assert!(matches!(malformed, Err(Passed::Malformed(_))));
    assert!(jobs.offers.is_empty());
}

#[test]
fn bids_of_the_excluded_the_late_and_those_who_bid_before_are_refused() {
    let mut jobs = Jobs::new(peer(1));
    let id = publish(&mut jobs, NOW, &job(1, NOW + 60)).unwrap();
    let table = [
        (peer(9), NOW, BidVerdict::Excluded),
        (peer(1), NOW, BidVerdict::Excluded),
        (peer(2), NOW + 59, BidVerdict::Taken),
        (peer(2), NOW + 59, BidVerdict::Duplicate),
        (peer(3), NOW + 60, BidVerdict::Expired),
        (peer(3), NOW + 60 + KEPT_AFTER_S, BidVerdict::Unknown),
    ];
    for (from, now, verdict) in table {
        assert_eq!(jobs.handle_bid(now, from, bid(id)), verdict, "at {now}");
    }
    let id = publish(&mut jobs, NOW, &job(2, NOW + 60)).unwrap();
    jobs.close(id);
    assert_eq!(jobs.open_until(NOW, id), None);
    assert_eq!(jobs.handle_bid(NOW, peer(2), bid(id)), BidVerdict::Expired);
}

#[test]
fn a_publisher_that_was_not_reached_can_be_bid_to_again() {
    let mut jobs = Jobs::new(peer(2));
    let job = job(1, NOW + 60);
    let id = show(&mut jobs, NOW, peer(1), &job).unwrap();
    jobs.begin_bid(NOW, id).unwrap();
    jobs.end_bid(id, None);
    assert_eq!(show(&mut jobs, NOW, peer(1), &job), Ok(id));
    jobs.begin_bid(NOW, id).unwrap();
    jobs.end_bid(id, Some(BidVerdict::Full));
    assert!(!jobs.may_work(NOW, peer(1), id));
    assert_eq!(jobs.begin_bid(NOW, id), Err(NotNow::Answered));
}

#[test]
fn one_publisher_takes_up_no_more_than_its_part() {
    let mut jobs = Jobs::new(peer(2));
    let limit = MAX_OFFERED_BY_ONE as u64;
    for nonce in 0..limit {
        show(&mut jobs, NOW, peer(1), &job(nonce, NOW + 60)).unwrap();
    }
    let over = job(limit, NOW + 60);
    assert_eq!(show(&mut jobs, NOW, peer(1), &over), Err(Passed::Full));
    assert!(show(&mut jobs, NOW, peer(3), &over).is_ok());
    // Room comes back when they are forgotten.
    let later = NOW + 60 + KEPT_AFTER_S;
    let again = job(0, later + 60);
    assert!(show(&mut jobs, later, peer(1), &again).is_ok());
    assert_eq!(jobs.offers.len(), 1);
}

#[test]
fn own_jobs_and_bids_are_limited() {
    let mut jobs = Jobs::new(peer(1));
    for nonce in 0..MAX_OWN_JOBS as u64 {
        publish(&mut jobs, NOW, &job(nonce, NOW + 60)).unwrap();
    }
    let over = job(MAX_OWN_JOBS as u64, NOW + 60);
    assert_eq!(publish(&mut jobs, NOW, &over), Err(NotNow::Full));
    let id = publish(&mut jobs, NOW, &job(0, NOW + 60)).unwrap();
    for n in 0..MAX_BIDS as u16 {
        let [high, low] = n.to_be_bytes();
        let from = PeerId::from_bytes(&[0, 3, 7, high, low]).unwrap();
        assert_eq!(jobs.handle_bid(NOW, from, bid(id)), BidVerdict::Taken);
    }
    assert_eq!(jobs.handle_bid(NOW, peer(2), bid(id)), BidVerdict::Full);
    for expires in [NOW, NOW + MAX_JOB_LIFETIME_S + 1] {
        let never = publish(&mut jobs, NOW, &job(1, expires));
        assert_eq!(never, Err(NotNow::Expired));
    }
}

#[derive(Debug, Clone)]
enum Act {
    Publish(u64, u64),
    Bid(u8, u64),
    Show(u8, u64, u64),
    Answer(u64, Option<bool>),
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..4_u64, 1..90_u64).prop_map(|(nonce, s)| Act::Publish(nonce, s)),
        (0..12_u8, 0..8_u64).prop_map(|(from, which)| Act::Bid(from, which)),
        (0..12_u8, 0..4_u64, 1..90_u64).prop_map(|(from, nonce, s)| Act::Show(from, nonce, s)),
        (0..8_u64, any::<Option<bool>>()).prop_map(|(which, taken)| Act::Answer(which, taken)),
        (0..300_u64).prop_map(Act::Wait),
    ]
}

proptest! {
    /// Whatever happens: nobody bids twice, the excluded never, answered jobs are not shown,
    /// and all is forgotten in the end.
    #[test]
    fn any_course_of_events_keeps_to_the_rules(acts in vec(acts(), 0..80)) {
        let (mut jobs, mut now) = (Jobs::new(peer(0)), NOW);
        let (mut own, mut shown): (Vec<JobId>, Vec<JobId>) = (Vec::new(), Vec::new());
        let mut answered = BTreeSet::new();
        for act in acts {
            match act {
                Act::Publish(nonce, s) => {
                    own.extend(publish(&mut jobs, now, &job(nonce, now + s)));
                }
                Act::Bid(from, which) => {
                    let Some(id) = own.get(which as usize) else { continue };
                    let verdict = jobs.handle_bid(now, peer(from), bid(*id));
                    prop_assert!(verdict != BidVerdict::Taken || (from != 0 && from != 9));
                }
                Act::Show(from, nonce, s) => {
                    if let Ok(id) = show(&mut jobs, now, peer(from), &job(nonce, now + s)) {
                        prop_assert!(from != 0 && !answered.contains(&id));
                        shown.push(id);
                    }
                }
                Act::Answer(which, taken) => {
                    let Some(id) = shown.get(which as usize) else { continue };
                    if jobs.begin_bid(now, *id).is_ok() {
                        let verdict = taken.map(|taken| match taken {
                            true => BidVerdict::Taken,
                            false => BidVerdict::Unknown,
                        });
                        jobs.end_bid(*id, verdict);
                        if verdict.is_some() {
                            answered.insert(*id);
                        }
                    }
                }
                Act::Wait(s) => now += s,
            }
            for own in jobs.own.values() {
                let bidders: BTreeSet<_> = own.bids.iter().map(|(from, _)| *from).collect();
                prop_assert_eq!(&bidders, &own.bidders);
                prop_assert_eq!(own.bids.len(), bidders.len());
            }
        }
        jobs.forget(now + 90 + KEPT_AFTER_S);
        prop_assert!(jobs.own.is_empty() && jobs.offers.is_empty() && jobs.of_one.is_empty());
        prop_assert_eq!(jobs.bids_bytes, 0);
    }
}
