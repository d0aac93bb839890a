//! The programs of the line as child processes: started, asked, killed, stopped.
//!
//! Invariant: no program outlives its [`Program`]; whatever ends the demo ends them all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a program may take to say where it listens.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a program may take to stop; the agent's own limit is 5 s.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How often a state is looked at while waiting for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of a program's output that wait for the reader; more are rare and only delay the program.
const LINES: usize = 64;

/// Somebody asked for the end.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Ends every wait with an error, so that whoever runs programs drops, and thereby kills, them.
pub fn stop_all() {
    STOPPED.store(true, Ordering::SeqCst);
}

/// Tells whether [`stop_all`] was called.
#[must_use]
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    /// Absent once it is left to itself.
    child: Option<Child>,
    lines: Receiver<String>,
    said: RefCell<BTreeMap<String, String>>,
    log: PathBuf,
}

impl Program {
    /// Starts a program of this build, with its log in `<folder>/<name>.log`.
    ///
    /// *Errors*: the program is not there or does not start.
    pub fn start(name: &str, program: &str, arguments: &[&str], folder: &Path) -> anyhow::Result<Self> {
        let binary = beside_this_program(program)?;
        let log = folder.join(format!("{name}.log"));
        let errors = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut child = Command::new(&binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {}; is it built? (make)", binary.display()))?;
        let output = child.stdout.take().context("the program's output")?;
        let (sender, lines) = sync_channel(LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody may listen any more; the output is read all the same, or the program would stand.
                drop(sender.try_send(line));
            }
        });
        Ok(Self { name: name.to_owned(), child: Some(child), lines, said: RefCell::default(), log })
    }

    /// Gives what the program said in a line `KEY=value`, waiting for it.
    ///
    /// *Errors*: the program ends or the time is up before that; the end of its log is part of the error.
    pub fn key(&self, wanted: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + START_LIMIT;
        let mut said = self.said.borrow_mut();
        loop {
            if let Some(value) = said.get(wanted) {
                return Ok(value.clone());
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some((key, value)) = line.split_once('=') {
                        said.insert(key.to_owned(), value.to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not say {wanted} in time{}", self.name, self.tail())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended before it said {wanted}{}", self.name, self.tail())
                }
            }
        }
    }

    /// Kills the program as a power cut would, and waits until it is gone.
    ///
    /// *Errors*: the system refuses.
    pub fn kill(mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        child.kill().with_context(|| format!("kill -9 of {}", self.name))?;
        child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Asks the program to stop (SIGTERM) and waits for its end.
    ///
    /// *Errors*: it does not stop in time, or ends with a failure.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let id = child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().context("sending SIGTERM")?;
        let status = wait_for(&format!("{} to stop", self.name), STOP_LIMIT, || match self.exited() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })?;
        if !status.success() {
            bail!("{} ended with {status}{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Fails if the program has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}{}", self.name, self.tail()),
        }
    }

    /// Gives the process id.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Lets the program run on after this one has ended.
    pub fn leave_running(mut self) {
        self.child = None;
    }

    fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.child {
            None => Ok(None),
            Some(child) => child.try_wait().with_context(|| format!("asking after {}", self.name)),
        }
    }

    /// The last lines of its log, for an error message.
    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n  ");
        format!("\n  {}:\n  {last}", self.log.display())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A program that has ended already cannot be killed again.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Runs a verb of a program to its end and gives exit code and output.
///
/// *Errors*: the program does not start.
pub fn run(name: &str, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let binary = beside_this_program(name)?;
    let output = Command::new(&binary)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", binary.display()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.is_empty() {
        text = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    Ok((output.status.code(), text))
}

/// Programs of one build stand in one folder; a test's own program stands one folder below.
fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this program stands")?;
    let folder = own.parent().context("the folder of this program")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.join(name))
}

/// Waits for a state, looking every 50 ms.
///
/// *Errors*: the state does not come within the limit; the error says what was waited for and what the
/// last look saw.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if is_stopped() {
            bail!("stopped by a signal");
        }
        match look() {
            Ok(state) => return Ok(state),
            Err(seen) if Instant::now() > deadline => {
                bail!("waited {} s for {what}; last seen: {seen}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Asks an HTTP address of the line for JSON.
///
/// *Errors*: as a sentence, for [`wait_for`].
pub fn get_json(url: &str) -> Result<serde_json::Value, String> {
    let mut answer = agent().get(url).call().map_err(|e| format!("{url}: {e}"))?;
    let text = answer.body_mut().read_to_string().map_err(|e| format!("{url}: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("{url}: {e}: {text}"))
}

/// Sends a request with a JSON body (or none) and gives the answer's text.
///
/// *Errors*: as a sentence.
pub fn post(url: &str, body: Option<&serde_json::Value>) -> Result<String, String> {
    let request = agent().post(url).content_type("application/json");
    let answer = match body {
        Some(body) => request.send(body.to_string()),
        None => request.send_empty(),
    };
    let mut answer = answer.map_err(|e| format!("{url}: {e}"))?;
    answer.body_mut().read_to_string().map_err(|e| format!("{url}: {e}"))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into()
}
