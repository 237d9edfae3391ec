//! Processes that tests drive: daemons, and commands with a deadline.

use std::{
    collections::VecDeque,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    task::JoinHandle,
    time::timeout,
};

use super::{
    LabError,
    command::{checked, text},
};

/// Lines of standard error that are kept, the last ones.
const STDERR_LINES: usize = 200;

/// Pause between two looks at what a process said.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How a process ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// The last it wrote to standard error.
    pub stderr: String,
}

/// A running process with its pipes; killed when dropped.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts a command. Standard input is a pipe: close it with
    /// [`take_stdin`](Self::take_stdin) where the process waits for its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Result<Self, LabError> {
        let what = text(&command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| LabError::Run {
                what: what.clone(),
                source,
            })?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let pipe = child.stderr.take().expect("piped above");
        let kept = Arc::clone(&stderr);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > STDERR_LINES {
                    kept.pop_front();
                }
            }
        });
        Ok(Self {
            what,
            stdout: child.stdout.take().map(BufReader::new),
            child,
            stderr,
            reader,
        })
    }

    /// Its standard input; dropping that ends it. `None` the second time.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output. `None` the second time.
    pub fn take_stdout(&mut self) -> Option<BufReader<ChildStdout>> {
        self.stdout.take()
    }

    /// The last it wrote to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .fold(String::new(), |all, line| all + line + "\n")
    }

    /// Waits until its standard error has `text` in one of the last lines.
    ///
    /// # Errors
    /// When it does not in time, or the process ends before.
    pub async fn says(&self, text: &str, within: Duration) -> Result<(), LabError> {
        let said = async {
            loop {
                let ended = self.reader.is_finished();
                if self.stderr().contains(text) {
                    return Ok(());
                }
                if ended {
                    return Err(LabError::Ended {
                        what: self.what.clone(),
                        stderr: self.stderr(),
                    });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match timeout(within, said).await {
            Ok(result) => result,
            Err(_) => Err(self.late("a line on standard error", within)),
        }
    }

    /// The next line of its output.
    ///
    /// # Errors
    /// When none comes in time, or the output ends.
    pub async fn line(&mut self, within: Duration) -> Result<String, LabError> {
        let mut line = String::new();
        let read = match &mut self.stdout {
            Some(stdout) => timeout(within, stdout.read_line(&mut line)).await,
            None => Ok(Ok(0)),
        };
        match read {
            Ok(Ok(0)) => Err(LabError::Ended {
                what: self.what.clone(),
                stderr: self.stderr(),
            }),
            Ok(Ok(_)) => Ok(line.trim_end().to_owned()),
            Ok(Err(source)) => Err(self.failed(source)),
            Err(_) => Err(self.late("a line of output", within)),
        }
    }

    /// Waits for its end; its standard input is closed and its remaining output taken.
    ///
    /// # Errors
    /// When it runs on. It is killed then.
    pub async fn finish(mut self, within: Duration) -> Result<Finished, LabError> {
        drop(self.take_stdin());
        let mut stdout = Vec::new();
        let ended = timeout(within, async {
            if let Some(pipe) = &mut self.stdout {
                pipe.read_to_end(&mut stdout).await?;
            }
            let status = self.child.wait().await?;
            // Ends with the pipe, unless a grandchild still holds it.
            let _ = timeout(Duration::from_secs(1), &mut self.reader).await;
            Ok::<ExitStatus, std::io::Error>(status)
        });
        match ended.await {
            Ok(Ok(status)) => Ok(Finished {
                code: status.code(),
                stdout: String::from_utf8_lossy(&stdout).into_owned(),
                stderr: self.stderr(),
            }),
            Ok(Err(source)) => Err(self.failed(source)),
            Err(_) => {
                self.kill();
                Err(self.late("its end", within))
            }
        }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, with SIGTERM.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> Result<(), LabError> {
        let Some(pid) = self.child.id() else {
            return Ok(());
        };
        checked(Command::new("kill").args(["-TERM", &pid.to_string()])).map(drop)
    }

    /// Ends it at once, with SIGKILL.
    pub fn kill(&mut self) {
        if let Err(e) = self.child.start_kill() {
            tracing::debug!("{} cannot be killed: {e}", self.what);
        }
    }

    fn failed(&self, source: std::io::Error) -> LabError {
        LabError::Run {
            what: self.what.clone(),
            source,
        }
    }

    fn late(&self, waited_for: &'static str, within: Duration) -> LabError {
        LabError::Timeout {
            what: self.what.clone(),
            waited_for,
            within,
            stderr: self.stderr(),
        }
    }
}

/// Runs a command to its end, with `stdin` as its standard input.
///
/// # Errors
/// When it cannot be started or does not end in time; a failing exit code is no error.
pub async fn run(command: Command, stdin: &[u8], within: Duration) -> Result<Finished, LabError> {
    let mut process = Process::start(command)?;
    if let Some(mut pipe) = process.take_stdin()
        && let Err(e) = timeout(within, pipe.write_all(stdin))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    {
        // It may have ended without reading; its exit code tells.
        tracing::debug!("{} took no input: {e}", process.what);
    }
    process.finish(within).await
}
