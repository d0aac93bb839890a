//! The few operations on files that the buffer rests on, each behind one seam ([`Faults`]), so that
//! tests can stop the world or fill the disk before and after every one of them.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::BufferError;

/// A place at which a test or the simulation may break off; named after what is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The temporary manifest is written and synchronised.
    WriteManifest,
    /// The manifest takes its place.
    ReplaceManifest,
    /// The manifest is durable.
    ManifestReplaced,
    /// A segment's folder is made.
    MakeSegment,
    /// A segment's database is opened.
    OpenSegment,
    /// A batch goes to the database.
    Append,
    /// The database is told to write.
    Flush,
    /// The database's file is synchronised.
    Sync,
    /// The batch is durable.
    Synced,
    /// A segment is removed.
    RemoveSegment,
    /// A damaged segment gets its new name.
    SetAside,
}

/// What a test or the simulation puts into the way of the disk.
pub trait Faults: fmt::Debug + Send + Sync {
    /// Is called before each step; an error is what the system would say.
    fn at(&self, step: Step, path: &Path) -> io::Result<()>;
    /// Is called when the data of a database's file have been synchronised: what a power cut leaves from now on.
    fn synchronised(&self, _segment: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Stands for the free space of the folder's file system.
    fn available_bytes(&self, folder: &Path) -> Option<u64>;
    /// Gives what a segment takes, which the disk says to be `real`: sled's threads write when they please, and a
    /// simulation must not depend on it. *Units*: bytes.
    fn segment_bytes(&self, _segment: &Path, real: u64) -> u64 {
        real
    }
    /// Gives the time by which a dead disk is tried again and acknowledgements are saved.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// The disk, with or without faults.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    faults: Option<Arc<dyn Faults>>,
}

impl Disk {
    pub(super) fn with_faults(faults: Arc<dyn Faults>) -> Self {
        Self { faults: Some(faults) }
    }

    /// Gives what a segment takes on the disk, which says that it is `real`. *Units*: bytes.
    pub(super) fn segment_bytes(&self, segment: &Path, real: u64) -> u64 {
        self.faults.as_ref().map_or(real, |faults| faults.segment_bytes(segment, real))
    }

    /// Gives the time: the machine's, or what stands for it.
    pub(super) fn now(&self) -> Instant {
        self.faults.as_ref().map_or_else(Instant::now, |faults| faults.now())
    }

    /// Passes a step, or fails as the system would.
    pub(super) fn at(&self, step: Step, path: &Path) -> Result<(), BufferError> {
        match &self.faults {
            None => Ok(()),
            Some(faults) => faults.at(step, path).map_err(|e| BufferError::io("reaching", path, e)),
        }
    }

    /// Returns when the data of a database's file are on the disk: fdatasync(2), by the system's own word.
    ///
    /// *Errors*: [`BufferError::Io`].
    pub(super) fn sync_data(&self, file: &File, segment: &Path) -> Result<(), BufferError> {
        let synchronised =
            file.sync_data().and_then(|()| self.faults.as_ref().map_or(Ok(()), |f| f.synchronised(segment)));
        synchronised.map_err(|e| BufferError::io("synchronising", segment, e))
    }

    /// Replaces a file whole and returns when the new one is durable.
    ///
    /// *Errors*: [`BufferError::Io`]; the former file stands, or already the new one.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), BufferError> {
        let temporary = path.with_extension("tmp");
        self.at(Step::WriteManifest, path)?;
        let mut file = File::create(&temporary).map_err(|e| BufferError::io("making", &temporary, e))?;
        file.write_all(bytes).map_err(|e| BufferError::io("writing", &temporary, e))?;
        file.sync_all().map_err(|e| BufferError::io("synchronising", &temporary, e))?;
        self.at(Step::ReplaceManifest, path)?;
        std::fs::rename(&temporary, path).map_err(|e| BufferError::io("renaming", &temporary, e))?;
        if let Some(folder) = path.parent() {
            sync_folder(folder)?;
        }
        self.at(Step::ManifestReplaced, path)
    }

    /// Gives the free space of a folder's file system, where the system says. *Units*: bytes.
    pub(super) fn available_bytes(&self, path: &Path) -> Option<u64> {
        match &self.faults {
            Some(faults) => faults.available_bytes(path),
            None => fs2::available_space(path).ok(),
        }
    }

    /// Makes a folder, durably; one that is there is left alone.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), BufferError> {
        self.at(Step::MakeSegment, path)?;
        std::fs::create_dir_all(path).map_err(|e| BufferError::io("making", path, e))?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    /// Removes a folder and all in it; one that is not there is removed already.
    pub(super) fn remove_folder(&self, path: &Path) -> Result<(), BufferError> {
        self.at(Step::RemoveSegment, path)?;
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(BufferError::io("removing", path, e)),
            _ => path.parent().map_or(Ok(()), sync_folder),
        }
    }

    /// Gives a folder another name, durably.
    pub(super) fn rename_folder(&self, from: &Path, to: &Path) -> Result<(), BufferError> {
        self.at(Step::SetAside, from)?;
        std::fs::rename(from, to).map_err(|e| BufferError::io("renaming", from, e))?;
        from.parent().map_or(Ok(()), sync_folder)
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), BufferError> {
    let file = File::open(folder).map_err(|e| BufferError::io("opening", folder, e))?;
    file.sync_all().map_err(|e| BufferError::io("synchronising", folder, e))
}

/// Gives what a file takes on the disk. *Units*: bytes.
pub(super) fn file_bytes(file: &File) -> u64 {
    // Blocks of stat(2) have 512 bytes whatever the file system's are.
    file.metadata().map_or(0, |m| m.blocks().saturating_mul(512))
}

/// Gives what the files below a folder take on the disk. *Units*: bytes.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => folder_bytes(&entry.path()),
            Ok(m) => m.blocks().saturating_mul(512),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn the_system_itself_is_asked_to_synchronise() {
        // It refuses that for a pipe, which has no disk.
        let (_reader, writer) = std::io::pipe().unwrap();
        let refused = Disk::default().sync_data(&File::from(OwnedFd::from(writer)), Path::new("pipe"));
        assert!(matches!(&refused, Err(BufferError::Io { .. })), "{refused:?}");
    }
}
