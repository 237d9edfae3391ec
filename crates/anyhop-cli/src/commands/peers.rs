//! `peers`.

use anyhop::SessionInfo;

use super::{Context, path_text};
use crate::error::CliError;

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let sessions: Vec<SessionInfo> = context.client().get("/v1/peers").await?;
    context.output.result(&sessions, |sessions| {
        let lines: Vec<_> = sessions.iter().map(text).collect();
        lines.join("\n")
    })
}

fn text(session: &SessionInfo) -> String {
    let path = session.paths.iter().find(|p| p.selected);
    let way = path.map_or_else(|| "no path now".to_owned(), path_text);
    format!("{} {} s {way}", session.peer_id, session.age_s)
}
