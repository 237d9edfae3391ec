//! Prints what a rotation of the swarm key takes and costs: the table of
//! `docs/networks.md`.

use anyhop_lab::rotation::rotate;

fn main() {
    println!("| members | links | half have it | all have it | messages/member | bytes/member |");
    println!("|---|---|---|---|---|---|");
    for members in [100, 1000] {
        let rotation = rotate(members, 1);
        println!(
            "| {members} | {} | {} ms | {} ms | {:.1} | {} |",
            rotation.links,
            rotation.half.as_millis(),
            rotation.all.as_millis(),
            rotation.messages as f64 / members as f64,
            rotation.bytes / members,
        );
    }
}
