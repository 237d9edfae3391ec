//! `topics`.

use anyhop::TopicInfo;

use super::Context;
use crate::{error::CliError, output};

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let topics: Vec<TopicInfo> = context.client().get("/v1/topics").await?;
    context.output.result(&topics, |topics| {
        let row = |t: &TopicInfo| {
            let name = match t.topic.as_str() {
                "" => "(all nodes)".to_owned(),
                name => name.to_owned(),
            };
            let numbers = [t.neighbours.len() as u64, t.subscribers as u64, t.posts];
            let numbers = numbers.iter().map(ToString::to_string);
            std::iter::once(name).chain(numbers).collect()
        };
        let rows: Vec<Vec<String>> = topics.iter().map(row).collect();
        output::table(&["topic", "neighbours", "subscribers", "posts"], &rows)
    })
}
