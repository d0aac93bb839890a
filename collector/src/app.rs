//! Puts the stages together: intake → worker (ledger, lake, features) → server.

mod worker;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_preprocess::{Catalog, Problem, SourceFile, ViewSchema, compile};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::features::view::{ActiveView, NamedFeatures, NamedService};
use crate::features::{Places, Stores, StoresError};
use crate::flush::Settings;
use crate::lake::{self, LakeError};
use crate::serve::{self, Serving};
use crate::status::Status;
use crate::supervise::{TaskError, Tasks};
use worker::Worker;

pub(crate) use worker::chain;

/// Why the collector does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A directory or file of its own cannot be made.
    #[error("cannot make or open {}", .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another collector works on this directory.
    #[error("{} is locked: another collector works here; one worker owns all shards of an embedded lake", .path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The feature files have problems.
    #[error(transparent)]
    Features(#[from] FeatureFilesError),
    /// The lake.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The feature stores.
    #[error("the feature stores do not open")]
    Stores(#[from] StoresError),
    /// The server's address.
    #[error("[serve] listen: {address} cannot be listened on; choose another, or stop what listens there")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Why the feature files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FeatureFilesError {
    /// Files, or the folder, cannot be read: which, and why.
    #[error("{}", unreadable(.0))]
    Read(Vec<(PathBuf, io::Error)>),
    /// They have problems.
    #[error("{}", listed(.0))]
    Problems(Vec<Problem>),
}

fn unreadable(files: &[(PathBuf, io::Error)]) -> String {
    let each = files.iter().map(|(path, why)| format!("cannot read {}: {why}", path.display()));
    each.collect::<Vec<_>>().join("\n")
}

fn listed(problems: &[Problem]) -> String {
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    let count = problems.len();
    format!("{lines}{count} problem{}; nothing was started", if count == 1 { "" } else { "s" })
}

/// Compiles the feature files (`*.toml`, in the order of their names). A directory that is not there holds none.
///
/// # Errors
/// [`FeatureFilesError`], with every problem of every file.
pub fn feature_files(folder: &Path) -> Result<Catalog, FeatureFilesError> {
    let of_folder = |why| FeatureFilesError::Read(vec![(folder.to_owned(), why)]);
    let mut paths = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder).map_err(of_folder)? {
            let path = entry.map_err(of_folder)?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for path in paths {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push(SourceFile { name, text }),
            Err(why) => unread.push((path, why)),
        }
    }
    // What stands in a file that cannot be read is not known: nothing more can be said of the others.
    if !unread.is_empty() {
        return Err(FeatureFilesError::Read(unread));
    }
    let attributes = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    compile(&files, &attributes).map_err(FeatureFilesError::Problems)
}

/// Gives the schemas of all views.
#[must_use]
pub fn schemas(catalog: &Catalog) -> Vec<Arc<ViewSchema>> {
    catalog.views().iter().map(|view| Arc::clone(&view.schema)).collect()
}

/// Gives the services as the server and the export name them.
#[must_use]
pub fn services(catalog: &Catalog, active: &[ActiveView]) -> Vec<NamedService> {
    let part = |(view, places): &(Arc<millrace_preprocess::View>, Vec<usize>)| {
        let schema = &view.schema;
        let active =
            active.iter().find(|a| a.schema.name == schema.name && a.schema.version == schema.version)?;
        let features: Vec<_> =
            places.iter().filter_map(|&at| Some(schema.features.get(at)?.name.clone())).collect();
        let whole = features.len() == schema.features.len();
        Some(NamedFeatures { view: active.feast_name(), features, whole })
    };
    let services = catalog.services().iter();
    services
        .map(|s| NamedService {
            name: s.name.clone(),
            features: s.features.iter().filter_map(part).collect(),
        })
        .collect()
}

/// Gives where the feature stores stand.
#[must_use]
pub fn places(config: &Config) -> Places {
    Places {
        online_file: config.online_file.clone(),
        parquet_folder: config.data_dir.join("features"),
        project: config.feast_project.clone(),
    }
}

/// A collector that is ready to run.
pub struct App {
    worker: Worker,
    listener: TcpListener,
    serving: Serving,
    _locks: [File; 2],
}

impl App {
    /// Takes the lock, opens and migrates the lake and the feature stores, and listens.
    ///
    /// # Errors
    /// [`AppError`]; nothing runs then.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let catalog = Arc::new(feature_files(&config.features_dir)?);
        let own_folder = lock(config.data_dir.join("collector.lock"))?;
        for file in [&config.lake_file, &config.online_file] {
            if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                let failed = |source| AppError::Path { path: folder.to_owned(), source };
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
        }
        // Another collector may have a data directory of its own and the same lake.
        let mut beside = config.lake_file.clone().into_os_string();
        beside.push(".lock");
        let locks = [own_folder, lock(beside.into())?];
        let mut conn = lake::open(&config.lake_file).await?;
        let stores = Arc::new(Stores::open(&mut conn, &places(&config), &schemas(&catalog)).await?);
        let status = Status::new(config.ready_without_kafka);
        let address = config.serve_listen;
        let listener =
            TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })?;
        let serving = Serving {
            newest: stores.newest(),
            services: services(&catalog, stores.views()),
            project: config.feast_project.clone(),
            now_us: Box::new(clock::now_us),
            status: status.clone(),
        };
        let settings = Settings { catalog, stall_after: config.stall_after, limits: config.limits };
        let worker = Worker::new(config, settings, conn, stores, status);
        Ok(Self { worker, listener, serving, _locks: locks })
    }

    /// Gives the address that the server listens on.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// [`AppError::Task`], when a task ended by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AppError> {
        let mut tasks = Tasks::default();
        let Self { worker, listener, serving, _locks } = self;
        tasks.spawn("worker", |stop| async move { worker.run(stop).await.map_err(Into::into) });
        let router = serve::router(serving);
        tasks.spawn(
            "serve",
            |stop| async move { serve::run(listener, router, stop).await.map_err(Into::into) },
        );
        Ok(tasks.run(shutdown).await?)
    }
}

/// Makes a lock's folder and takes the lock; it is given back when the file is closed, also by a kill.
fn lock(path: PathBuf) -> Result<File, AppError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| AppError::Path { path, source }
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AppError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(AppError::Path { path, source }),
    }
}
