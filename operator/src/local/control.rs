//! Orders from another terminal: `replicated-redis-operator local switchover NAME` and its like.
//!
//! The running operator listens on `DATA_DIR/NAME/control.sock`, which only its own user can open. One line of JSON asks,
//! one line answers; then the connection ends.

use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// The longest question that is read.
const QUESTION_BYTES_MAX: u64 = 4096;
/// A socket's address holds 108 bytes; a longer path is reached through its folder's descriptor.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// The longest that a person's command waits. A switchover gives up by itself long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Question {
    /// The table of instances.
    Status,
    /// Move the master role, to a certain instance or to the one that suits best.
    Switchover { to: Option<String> },
    /// Go on although no member has data (rule R9).
    AllowDataLoss,
}

/// The answer: text for the person, and whether it is good news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub ok: bool,
    pub text: String,
}

impl Answer {
    pub fn good(text: impl Into<String>) -> Answer {
        Answer { ok: true, text: text.into() }
    }

    pub fn bad(text: impl Into<String>) -> Answer {
        Answer { ok: false, text: text.into() }
    }
}

/// A question that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    pub answer: oneshot::Sender<Answer>,
}

/// The listening socket; removed when dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens in `dir`. The caller holds the lock on `dir`, so a socket that is there is a dead operator's.
    pub fn listen(dir: &Path, asked: mpsc::Sender<Asked>) -> io::Result<Control> {
        let path = dir.join("control.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = through_short_path(dir, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let task = tokio::spawn(async move {
            let mut talks = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        let asked = asked.clone();
                        // A person who leaves before the answer does not undo what was asked.
                        talks.spawn(async move { let _ = talk(stream, asked).await; });
                    },
                    Some(_) = talks.join_next() => {}
                }
            }
        });
        Ok(Control { path, task })
    }
}

async fn talk(mut stream: tokio::net::UnixStream, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(QUESTION_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => {
            let (answer, answered) = oneshot::channel();
            let gone = || Answer::bad("the operator is stopping");
            match asked.send(Asked { question, answer }).await {
                Ok(()) => answered.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            }
        }
        Err(error) => Answer::bad(format!("not understood: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    write.shutdown().await
}

/// Asks the operator that runs `name` in `data_dir`, and waits for its answer.
pub fn ask(data_dir: &Path, name: &str, question: &Question) -> Result<Answer> {
    let dir = data_dir.join(name);
    if !dir.is_dir() {
        bail!("there is no '{name}' in {} (see --data-dir)", data_dir.display());
    }
    let mut stream = match through_short_path(&dir, |path| UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            bail!("no operator runs '{name}' in {} now", data_dir.display())
        }
        Err(error) => return Err(error).context(format!("cannot reach the operator of '{name}'")),
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the operator gave no answer")?;
    serde_json::from_str(&answer).context("the operator stopped before it answered")
}

fn through_short_path<T>(dir: &Path, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = dir.join("control.sock");
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return open(&path);
    }
    let folder = std::fs::File::open(dir)?;
    open(&PathBuf::from(format!("/proc/self/fd/{}/control.sock", folder.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask_elsewhere(data_dir: &Path, question: Question) -> Result<Answer> {
        let data_dir = data_dir.to_path_buf();
        tokio::task::spawn_blocking(move || ask(&data_dir, "x", &question)).await.unwrap()
    }

    #[tokio::test]
    async fn a_question_gets_its_answer_also_in_a_very_deep_folder() {
        for depth in [1, 8] {
            let root = tempfile::tempdir().unwrap();
            let data_dir = root.path().join(vec!["a-folder-of-some-length"; depth].join("/"));
            std::fs::create_dir_all(data_dir.join("x")).unwrap();
            let (tx, mut rx) = mpsc::channel(1);
            let control = Control::listen(&data_dir.join("x"), tx).unwrap();
            let mode = std::fs::metadata(data_dir.join("x/control.sock")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);

            let question = Question::Switchover { to: Some("x-replica-1".to_string()) };
            let (answer, ()) = tokio::join!(ask_elsewhere(&data_dir, question.clone()), async {
                let asked: Asked = rx.recv().await.unwrap();
                assert_eq!(asked.question, question);
                asked.answer.send(Answer::good("done")).unwrap();
            });
            assert_eq!(answer.unwrap(), Answer::good("done"));
            drop(control);
            assert!(!data_dir.join("x/control.sock").exists());
        }
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_operator_is_replaced() {
        let data_dir = tempfile::tempdir().unwrap();
        let dir = data_dir.path().join("x");
        std::fs::create_dir(&dir).unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.join("control.sock")).unwrap());
        let error = ask_elsewhere(data_dir.path(), Question::Status).await.unwrap_err().to_string();
        assert!(error.starts_with("no operator runs 'x' in "), "{error}");

        let (tx, mut rx) = mpsc::channel(1);
        let _control = Control::listen(&dir, tx).unwrap();
        let (answer, ()) = tokio::join!(ask_elsewhere(data_dir.path(), Question::Status), async {
            drop(rx.recv().await.unwrap());
        });
        assert_eq!(answer.unwrap(), Answer::bad("the operator is stopping"));
    }

    #[test]
    fn an_unknown_name_is_named() {
        let data_dir = tempfile::tempdir().unwrap();
        let error = ask(data_dir.path(), "shop", &Question::Status).unwrap_err().to_string();
        assert!(error.starts_with("there is no 'shop' in "), "{error}");
    }
}
