//! The Feast repository that describes what the pipeline writes: `feast export`.
//!
//! Three files, made from the configuration alone and always the same bytes for it, to be committed and applied:
//! `feature_store.yaml`, `definitions.py`, `training.py`. Written for Feast 0.67.

mod python;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::view::{ActiveView, NamedService};

/// What the repository says.
#[derive(Debug, Clone)]
pub struct Repository<'a> {
    /// Feast's project.
    pub project: &'a str,
    /// The online store's SQLite file.
    pub online_file: &'a Path,
    /// The folder of Parquet files.
    pub parquet_folder: &'a Path,
    /// The views with their promotions.
    pub views: &'a [ActiveView],
    /// The feature services.
    pub services: &'a [NamedService],
}

/// A file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFile {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

impl Repository<'_> {
    /// Makes the files.
    #[must_use]
    pub fn files(&self) -> [RepositoryFile; 3] {
        [
            RepositoryFile { name: "feature_store.yaml", text: self.feature_store() },
            RepositoryFile { name: "definitions.py", text: python::definitions(self) },
            RepositoryFile { name: "training.py", text: python::training() },
        ]
    }

    /// Writes the files into a folder, which is made.
    ///
    /// # Errors
    /// The path that could not be written, with its reason; files before it are written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
        fs::create_dir_all(folder).map_err(|error| (folder.to_owned(), error))?;
        let mut written = Vec::new();
        for file in self.files() {
            let path = folder.join(file.name);
            fs::write(&path, file.text).map_err(|error| (path.clone(), error))?;
            written.push(path);
        }
        Ok(written)
    }

    /// A JSON string is a YAML string, too.
    fn feature_store(&self) -> String {
        let text = |path: &Path| serde_json::json!(path.to_string_lossy()).to_string();
        format!(
            "# Made by `millrace-collector feast export`; made again, it is overwritten.\n\
             # Every process that reads the online store must run with TZ=UTC.\n\
             project: {project}\n\
             provider: local\n\
             registry: registry.db\n\
             online_store:\n  type: sqlite\n  path: {online}\n\
             offline_store:\n  type: file\n\
             entity_key_serialization_version: 3\n",
            project = serde_json::json!(self.project),
            online = text(self.online_file),
        )
    }
}

#[cfg(test)]
mod tests;
