use super::*;

#[test]
fn every_kind_is_paired_with_each_and_itself_where_it_applies() {
    let pairs = Options::default().pairs();
    let of = |family| pairs.iter().filter(|(f, ..)| *f == family).count();
    assert_eq!((of(Family::V4), of(Family::V6)), (36, 15));
    let names = Kind::ALL.map(Kind::name);
    for name in names {
        assert_eq!(name.parse::<Kind>().expect("known").name(), name);
    }
    let unknown = "cone".parse::<Kind>().expect_err("unknown");
    assert!(unknown.to_string().contains("full-cone"));
}

#[test]
fn table_replaces_what_stands_between_the_marks() {
    let document = format!("# T\n\n{BEGIN_MARK}\nold\n{END_MARK}\nrest\n");
    let new = replace_between_marks(&document, "new").expect("has marks");
    assert_eq!(
        new,
        format!("# T\n\n{BEGIN_MARK}\n\nnew\n\n{END_MARK}\nrest\n")
    );
    assert_eq!(replace_between_marks(&new, "new"), Ok(new.clone()));
    assert!(replace_between_marks("nothing", "x").is_err());
}

#[test]
fn every_pair_of_kinds_connects_and_is_direct_where_the_model_says_so() {
    let options = Options {
        runs: 1,
        ..Options::default()
    };
    let report = run(&options, &|_, _| {});
    println!("{}", report.table());
    for pair in &report.pairs {
        assert_eq!(pair.connected, pair.runs, "{} - {}", pair.a, pair.b);
        assert!(
            pair.missed.is_empty(),
            "{} - {}: {:?}",
            pair.a,
            pair.b,
            pair.missed
        );
    }
    let likely = |pair: &&PairReport| matches!(pair.possible, Expectation::Likely(..));
    let mut likely = report.pairs.iter().filter(likely);
    assert!(likely.all(|pair| pair.runs == LIKELY_RUNS as usize));
}
