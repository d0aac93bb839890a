//! `millrace-collector run` as a process of its own: what it logs, and how it ends.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::plant::{PATIENCE, Plant};

/// A running collector; killed when dropped.
pub(crate) struct Program {
    pub(crate) address: std::net::SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it and waits until it serves; from then on the plant's configuration has its address, so that verbs find
    /// it.
    pub(crate) async fn start(plant: &mut Plant) -> Self {
        plant.listen = "127.0.0.1:0".to_owned();
        let log = plant.folder.path().join("collector.log");
        // What a limit of file size does to a program that does not expect it is not what is tested: the signal is
        // ignored, so that a write fails as it does on a full disk.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_millrace-collector"), "run"])
            .arg("--config")
            .arg(plant.write_config())
            .env_remove("MILLRACE_LOG")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut program = Self { address, child, log };
        let line = program.said("serving address=").await;
        let address = line.split("address=").nth(1).unwrap().trim();
        program.address = address.parse().unwrap();
        plant.listen = address.to_owned();
        program
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How many lines of its log have a text in them.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line with a text in it.
    pub(crate) async fn said(&mut self, text: &str) -> String {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended with {ended:?} before it said {text:?}: {}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{text:?} was not said after {PATIENCE:?}: {}", self.log());
    }

    /// Limits how long a file may grow, in bytes, or gives the limit back.
    pub(crate) fn limit_file_size(&self, limit: &str) {
        let fsize = format!("--fsize={limit}:unlimited");
        let pid = self.child.id().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &fsize]).status().unwrap();
        assert!(done.success(), "prlimit {fsize}");
    }

    /// Sends it a signal and waits for its end.
    pub(crate) async fn stop(&mut self, signal: &str) -> ExitStatus {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "does not stop: {}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
