//! What goes to standard output and standard error.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::{CliError, Code};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// JSON or for people.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: as one line of JSON, or as `human` says.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        if self.json {
            let text = serde_json::to_string(value)
                .map_err(|e| CliError::new(Code::Failed, format!("cannot print: {e}")))?;
            return line(&text);
        }
        let text = human(value);
        if text.is_empty() { Ok(()) } else { line(&text) }
    }

    /// Prints an error.
    pub(crate) fn error(self, error: &CliError) {
        let mut err = io::stderr().lock();
        // Nobody is left to tell when standard error is gone.
        let _ = if self.json {
            let body = error.clone().into_body();
            let text = serde_json::to_string(&body).unwrap_or_default();
            writeln!(err, "{text}")
        } else {
            let (red, cyan, off) = if colours() {
                ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
            } else {
                ("", "", "")
            };
            writeln!(err, "{red}error:{off} {}", error.message).and_then(|()| match &error.hint {
                Some(hint) => writeln!(err, "{cyan}hint:{off} {hint}"),
                None => Ok(()),
            })
        };
    }

    /// Tells a person about something on the side: on standard error, not with JSON.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

/// Whether standard error takes colours.
pub(crate) fn colours() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// What stands before an item of a list for people, in colour on terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Works.
    Ok,
    /// Works, but not well.
    Warn,
    /// Does not work.
    Fail,
    /// Not known, or not over.
    Skipped,
}

impl Mark {
    /// As it is printed to standard output.
    pub(crate) fn text(self) -> &'static str {
        let plain =
            !io::stdout().is_terminal() || env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        match (self, plain) {
            (Self::Ok, true) => "+",
            (Self::Ok, false) => "\x1b[1;32m+\x1b[0m",
            (Self::Warn, true) => "!",
            (Self::Warn, false) => "\x1b[1;33m!\x1b[0m",
            (Self::Fail, true) => "x",
            (Self::Fail, false) => "\x1b[1;31mx\x1b[0m",
            (Self::Skipped, true) => "-",
            (Self::Skipped, false) => "\x1b[2m-\x1b[0m",
        }
    }
}

/// A table: columns as wide as their widest cell, the head in capitals.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let cells = cells.map(|c| c.chars().count());
        cells.max().unwrap_or(0).max(head[column].len())
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths);
        let cells: Vec<_> = cells.map(|(c, w)| format!("{c:w$}", w = *w)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let head: Vec<_> = head.iter().map(|h| h.to_uppercase()).collect();
    let lines = [line(&head)].into_iter();
    let lines: Vec<_> = lines.chain(rows.iter().map(|row| line(row))).collect();
    lines.join("\n")
}

/// Writes a line to standard output and flushes it.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| {
            if text.ends_with('\n') {
                Ok(())
            } else {
                out.write_all(b"\n")
            }
        })
        .and_then(|()| out.flush())
        .map_err(|e| stdout_failed(&e))
}

/// Writes bytes to standard output as they are and flushes them.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| stdout_failed(&e))
}

/// The error of a failed write to standard output; quiet when its reader left.
pub(crate) fn stdout_failed(e: &io::Error) -> CliError {
    let code = match e.kind() {
        io::ErrorKind::BrokenPipe => Code::OutputClosed,
        _ => Code::Failed,
    };
    CliError::new(code, format!("cannot write to standard output: {e}"))
}

/// A spinner while something is waited for; only on a terminal and only after a moment.
pub(crate) fn spinner(message: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.set_draw_target(draw_target());
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar over bytes moved; without a known total it counts.
pub(crate) fn byte_bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec}",
        ),
    };
    bar.set_draw_target(draw_target());
    styled(bar, template)
}

/// A bar over a number of things, whose total is set later.
pub(crate) fn count_bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    bar.set_draw_target(draw_target());
    styled(bar, "{bar:32} {pos}/{len} {msg} {eta}")
}

/// A bar over a known time.
pub(crate) fn time_bar(seconds: u64) -> ProgressBar {
    let bar = ProgressBar::new(seconds * 1000);
    bar.set_draw_target(draw_target());
    styled(bar, "{bar:32} {msg}")
}

const TICK: Duration = Duration::from_millis(120);

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn draw_target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// Seconds as a duration; arguments were checked to be finite and not negative.
pub(crate) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::ZERO)
}
