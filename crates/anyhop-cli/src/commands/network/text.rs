//! Networks in tables and words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhop::{MemberInfo, NetworkKind, RequestInfo};

use crate::{api::network::NetworkReport, output::table};

/// All networks.
pub(super) fn networks(networks: &[NetworkReport]) -> String {
    let row = |n: &NetworkReport| {
        vec![
            if n.default { "*" } else { "" }.to_owned(),
            n.network.clone(),
            kind(n).to_owned(),
            n.role.clone().unwrap_or_else(|| "-".to_owned()),
            n.epoch.map_or_else(|| "-".to_owned(), |e| e.to_string()),
            n.id.clone(),
        ]
    };
    let rows: Vec<_> = networks.iter().map(row).collect();
    table(&["", "name", "kind", "role", "epoch", "id"], &rows)
}

/// One network.
pub(super) fn network(n: &NetworkReport) -> String {
    let mut lines = vec![
        format!("{:12} {}", "network", n.network),
        format!("{:12} {}", "id", n.id),
        format!("{:12} {}", "kind", kind(n)),
    ];
    let role = n.role.iter().map(|r| format!("{:12} {r}", "role"));
    let epoch = n.epoch.iter().map(|e| format!("{:12} {e}", "epoch"));
    lines.extend(role.chain(epoch));
    for (i, address) in n.addresses.iter().enumerate() {
        let what = if i == 0 { "addresses" } else { "" };
        lines.push(format!("{what:12} {address}"));
    }
    lines.join("\n")
}

fn kind(n: &NetworkReport) -> &'static str {
    match n.kind {
        NetworkKind::Public => "public",
        NetworkKind::Private => "private",
    }
}

/// Members, in the order of their names.
pub(super) fn members(members: &[MemberInfo]) -> String {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|m| &m.name);
    let row = |m: &&MemberInfo| {
        vec![
            m.name.clone(),
            m.role.clone(),
            if m.online { "yes" } else { "no" }.to_owned(),
            time(m.expires),
            m.peer_id.clone(),
        ]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    table(&["name", "role", "online", "expires", "peer id"], &rows)
}

/// Who waits.
pub(super) fn requests(requests: &[RequestInfo]) -> String {
    if requests.is_empty() {
        return "nobody waits".to_owned();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or(Duration::ZERO).as_secs();
    let row = |r: &RequestInfo| {
        let name = if r.name.is_empty() { "-" } else { &r.name };
        vec![
            name.to_owned(),
            duration(now.saturating_sub(r.since)),
            r.peer_id.clone(),
        ]
    };
    let rows: Vec<_> = requests.iter().map(row).collect();
    table(&["wants to be", "waits for", "peer id"], &rows)
}

/// A length of time, in its largest unit that leaves no rest worth telling.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let fitting = units.iter().find(|(unit, _)| seconds >= 2 * unit);
    match fitting {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

/// A time, UTC: `2031-05-04 12:00`.
pub(super) fn time(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        second / 3600,
        second % 3600 / 60
    )
}

/// The date so many days after 1970-01-01: whole years, then whole months are taken off.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && !y.is_multiple_of(100) || y.is_multiple_of(400);
    // Dates repeat every 400 years, so that a far one takes no longer.
    let mut year = 1970 + 400 * (days / 146_097);
    days %= 146_097;
    loop {
        let len = if leap(year) { 366 } else { 365 };
        if days < len {
            break;
        }
        (days, year) = (days - len, year + 1);
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < len {
            break;
        }
        (days, month) = (days - len, month + 1);
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_calendars_do() {
        let table = [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
        ];
        for (unix_s, text) in table {
            assert_eq!(time(unix_s), text);
        }
        assert!(time(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn lengths_are_told_in_a_unit_that_fits() {
        for (seconds, text) in [
            (1, "1 s"),
            (119, "119 s"),
            (120, "2 m"),
            (86_400, "24 h"),
            (604_800, "7 d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
