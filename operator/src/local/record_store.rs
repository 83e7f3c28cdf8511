//! The record of one ReplicatedRedis in a file of its data directory.
//!
//! In the cluster the record is a status field behind a resourceVersion; here it is `record.json`, replaced atomically,
//! and its precondition is a version inside the file. A lock file makes a second operator on the same data directory
//! refuse to start; the version is checked all the same, so that the planner meets the same rules in both places.
//!
//! ```json
//! { "version": 7, "record": { … } }
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::files;

/// Why a record could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("another operator (process {pid}) already runs '{name}' in {dir}")]
    Locked { name: String, dir: String, pid: String },
    #[error("cannot use {path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("{path} is damaged: {error}")]
    Damaged { path: String, error: serde_json::Error },
    #[error("the record has version {found}, not {expected}: another operator has written it")]
    Conflict { expected: u64, found: u64 },
}

/// The right to run the instances of one data directory, held as long as this value lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes `dir/operator.lock`, and writes this process's id into it for the message that another one shows.
    pub fn take(dir: &Path, name: &str) -> Result<DataDirLock, StoreError> {
        let path = dir.join("operator.lock");
        let io = |error| StoreError::Io { path: path.display().to_string(), error };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                let (name, dir) = (name.to_string(), dir.display().to_string());
                return Err(StoreError::Locked { name, dir, pid: pid.trim().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(DataDirLock { _file: file })
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u64,
    record: T,
}

/// The file and the version that was last seen of it.
#[derive(Debug)]
pub struct RecordStore {
    path: PathBuf,
}

impl RecordStore {
    pub fn new(path: &Path) -> RecordStore {
        RecordStore { path: path.to_path_buf() }
    }

    /// The record and its version; `None` when none was ever written.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<(T, u64)>, StoreError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Io { path: self.shown(), error }),
        };
        let versioned: Versioned<T> =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path: self.shown(), error })?;
        Ok(Some((versioned.record, versioned.version)))
    }

    /// Writes the record if the file still has version `expected` (0: no file), and returns the new version. When this
    /// returns, the record is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the version is another one; nothing is changed then.
    pub fn write<T: Serialize>(&self, expected: u64, record: &T) -> Result<u64, StoreError> {
        let found = self.read::<serde::de::IgnoredAny>()?.map_or(0, |(_, version)| version);
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let version = expected + 1;
        let bytes = serde_json::to_vec_pretty(&Versioned { version, record })
            .map_err(|error| StoreError::Damaged { path: self.shown(), error })?;
        files::replace(&self.path, &bytes).map_err(|error| StoreError::Io { path: self.shown(), error })?;
        Ok(version)
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_needs_the_version_that_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = RecordStore::new(&dir.path().join("record.json"));
        assert!(store.read::<String>().unwrap().is_none());
        assert_eq!(store.write(0, &"first".to_string()).unwrap(), 1);
        assert_eq!(store.write(1, &"second".to_string()).unwrap(), 2);

        let conflict = store.write(1, &"late".to_string()).unwrap_err();
        assert!(matches!(conflict, StoreError::Conflict { expected: 1, found: 2 }), "{conflict}");
        assert!(matches!(store.write(0, &"blind".to_string()), Err(StoreError::Conflict { .. })));
        assert_eq!(store.read::<String>().unwrap(), Some(("second".to_string(), 2)));
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_former_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let store = RecordStore::new(&path);
        store.write(0, &"first".to_string()).unwrap();
        std::fs::write(dir.path().join("record.json.new"), "{\"versi").unwrap();
        assert_eq!(store.read::<String>().unwrap(), Some(("first".to_string(), 1)));
        assert_eq!(store.write(1, &"second".to_string()).unwrap(), 2);
    }

    #[test]
    fn a_damaged_record_is_named_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        std::fs::write(&path, "{\"version\": 3, \"rec").unwrap();
        let store = RecordStore::new(&path);
        let error = store.read::<String>().unwrap_err().to_string();
        assert!(error.contains("record.json is damaged"), "{error}");
        assert!(store.write(0, &"x".to_string()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"version\": 3, \"rec");
    }

    #[test]
    fn two_operators_on_one_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDirLock::take(dir.path(), "quickstart").unwrap();
        let refused = DataDirLock::take(dir.path(), "quickstart").unwrap_err().to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        assert!(refused.contains("'quickstart'"), "{refused}");
        drop(first);
        DataDirLock::take(dir.path(), "quickstart").unwrap();
    }
}
