//! The gateway's disk: full at times, and able to end the world before any of the buffer's steps.
//!
//! A kill leaves the folder as it is at that moment (what sled holds in memory is gone). A power cut leaves it as it
//! was when something was last synchronised.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use millrace_agent::buffer::{Faults, Step};

use super::tally::Tally;
use super::time::Time;

/// What a flush counts as on the disk: a small buffer is full after ten. *Units*: bytes.
const FLUSH_BYTES: u64 = 240 << 10;

/// How the world ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// kill -9.
    Kill,
    /// The power is cut.
    PowerCut,
}

/// The disk of one start of the agent.
#[derive(Debug)]
pub struct GatewayDisk {
    time: Time,
    images: Images,
    /// Whether synchronised states are kept, which costs a copy at each.
    keeps_synced: bool,
    /// Sabotage: as if `fdatasync` were skipped every so often.
    forgets_sync: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    steps_left: Option<(u64, End)>,
    ended: Option<End>,
    is_full: bool,
    syncs: u64,
}

/// Where the folder and its images stand.
#[derive(Debug, Clone)]
pub struct Images {
    /// What the agent calls its buffer.
    pub buffer: PathBuf,
    killed: PathBuf,
    synced: PathBuf,
    /// Flushes into each segment.
    appended: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
    /// What happened to the disk, over all starts of the agent.
    tally: Arc<Mutex<Tally>>,
}

impl Images {
    /// Names them below a data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        let at = |name: &str| data.join(name);
        Self {
            buffer: at("buffer"),
            killed: at("killed"),
            synced: at("synced"),
            appended: Arc::default(),
            tally: Arc::default(),
        }
    }

    /// Gives what happened to the disk.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what a power cut would leave from now on: nothing of what sled puts beside its log, which nobody
    /// synchronises.
    fn keep(&self) -> io::Result<()> {
        copy_folder(&self.buffer, &self.synced)?;
        for segment in std::fs::read_dir(&self.synced)?.flatten() {
            for blob in std::fs::read_dir(segment.path().join("blobs")).into_iter().flatten().flatten() {
                std::fs::remove_file(blob.path())?;
            }
        }
        Ok(())
    }

    fn note(&self, what: &str) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).once(what);
    }

    /// Puts what an end left in the place of the folder.
    ///
    /// *Errors*: the real disk's.
    pub fn restore(&self, end: End) -> anyhow::Result<()> {
        let image = match end {
            End::Kill => &self.killed,
            End::PowerCut => &self.synced,
        };
        if self.buffer.exists() {
            std::fs::remove_dir_all(&self.buffer).context("removing the buffer")?;
        }
        if image.exists() {
            copy_folder(image, &self.buffer).context("restoring the buffer")?;
        }
        Ok(())
    }
}

impl GatewayDisk {
    /// Makes it.
    #[must_use]
    pub fn new(time: &Time, images: &Images, keeps_synced: bool, forgets_sync: bool) -> Arc<Self> {
        let (time, images, state) = (time.clone(), images.clone(), Mutex::default());
        Arc::new(Self { time, images, keeps_synced, forgets_sync, state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the world before the n-th step from now on.
    pub fn end_at(&self, step: u64, how: End) {
        self.lock().steps_left = Some((step, how));
    }

    /// Ends the world now.
    ///
    /// *Errors*: the real disk's.
    pub fn end(&self, how: End) -> io::Result<()> {
        let mut state = self.lock();
        if state.ended.is_none() {
            self.finish(&mut state, how)?;
        }
        Ok(())
    }

    /// Tells whether and how the world has ended.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.lock().ended
    }

    /// Calls off an end that has not come.
    pub fn spare(&self) {
        self.lock().steps_left = None;
    }

    /// Fills the disk, or gives it space again.
    pub fn fill(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// Tells whether it is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lock().is_full
    }

    fn finish(&self, state: &mut State, how: End) -> io::Result<()> {
        if how == End::Kill {
            copy_folder(&self.images.buffer, &self.images.killed)?;
        }
        state.ended = Some(how);
        Ok(())
    }
}

impl Faults for GatewayDisk {
    fn synchronised(&self, _segment: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.ended.is_some() || !self.keeps_synced {
            return Ok(());
        }
        state.syncs += 1;
        if self.forgets_sync && !state.syncs.is_multiple_of(8) {
            return Ok(());
        }
        self.images.keep()
    }

    fn at(&self, step: Step, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Err(io::Error::other("the world has ended"));
        }
        if step == Step::ManifestReplaced && self.keeps_synced {
            self.images.keep()?;
        }
        match &mut state.steps_left {
            Some((0, how)) => {
                let how = *how;
                self.finish(&mut state, how)?;
                self.images.note(&format!("agent ended before {step:?}"));
                return Err(io::Error::other("the world ends"));
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let needs_space = matches!(step, Step::Append | Step::WriteManifest | Step::MakeSegment);
        if state.is_full && needs_space {
            self.images.note("agent's disk full");
            return Err(io::Error::from_raw_os_error(28)); // ENOSPC
        }
        if step == Step::Append {
            let mut appended = self.images.appended.lock().unwrap_or_else(PoisonError::into_inner);
            *appended.entry(path.to_owned()).or_default() += FLUSH_BYTES;
        }
        Ok(())
    }

    fn segment_bytes(&self, segment: &Path, _real: u64) -> u64 {
        let appended = self.images.appended.lock().unwrap_or_else(PoisonError::into_inner);
        appended.get(segment).copied().unwrap_or(0)
    }

    fn available_bytes(&self, _folder: &Path) -> Option<u64> {
        None
    }

    fn now(&self) -> std::time::Instant {
        self.time.instant().into_std()
    }
}

/// Copies a folder in the place of another.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if let Err(error) = std::fs::copy(entry.path(), &target)
            // sled's own threads remove snapshots while we look.
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}
