use super::*;

fn row(strategy: Strategy, (loss, killed, churn): (u8, u8, u8)) -> Row {
    let options = Options {
        nodes: 120,
        loss,
        killed,
        churn,
        strategy,
    };
    run(options, &[1])
}

#[test]
fn losses_while_many_join_leave_no_part_of_the_overlay_for_itself() {
    let options = Options {
        nodes: 300,
        loss: 20,
        killed: 0,
        churn: 0,
        strategy: Strategy::Tree,
    };
    let row = run(options, &[1, 2, 3]);
    assert_eq!((row.parts, row.complete), (1, row.posts), "{row:?}");
}

#[test]
fn a_tree_reaches_every_live_node_in_every_situation() {
    for situation in SITUATIONS {
        let row = row(Strategy::Tree, situation);
        assert_eq!(row.complete, row.posts, "{row:?}");
    }
}

#[test]
fn raintree_with_its_redundancy_reaches_every_live_node_in_every_situation() {
    for situation in SITUATIONS {
        let row = row(Strategy::RainTree, situation);
        assert_eq!(row.complete, row.posts, "{row:?}");
    }
}

#[test]
fn a_settled_tree_has_hardly_a_copy_too_many_where_gossip_has_one_for_each_link() {
    let calm = (0, 0, 0);
    let tree = row(Strategy::Tree, calm);
    assert!(tree.copies < 1.05, "{tree:?}");
    let gossip = row(Strategy::Gossip, calm);
    assert!(gossip.copies > 3.0, "{gossip:?}");
    let lossy = row(Strategy::Tree, (20, 0, 0));
    assert!(lossy.copies < 1.2, "{lossy:?}");
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let situation = (5, 30, 10);
    assert_eq!(
        row(Strategy::Tree, situation),
        row(Strategy::Tree, situation)
    );
}

#[test]
fn the_table_has_a_line_for_each_simulation_and_goes_between_the_marks() {
    let rows = vec![row(Strategy::Gossip, (20, 0, 0))];
    let report = Report { rows };
    let table = report.table();
    assert_eq!(table.lines().count(), 3);
    assert!(table.contains("| 120 | 20 % | 0 % | 0 % | gossip |"));
    // Gossip repairs nothing, and may leave somebody out.
    assert!(report.missed().is_empty());
    let document = format!("a\n{BEGIN_MARK}\nold\n{END_MARK}\nb");
    let replaced = replace_between_marks(&document, &table).unwrap();
    assert!(replaced.contains(&table) && !replaced.contains("old"));
}
