//! A RESP client for the conversation between operator and server: one connection, one request at a time, every call
//! bounded in time.
//!
//! It speaks the `REPLICATED …` commands and any other command that a provider needs. It decides nothing: a refusal of
//! the server is a [`ClientError::Refused`] that carries the server's own code, a lost connection is a
//! [`ClientError::Io`]. After any error but a refusal the connection is in an unknown state and must be dropped, because
//! a reply may still be on its way.

use std::fmt;
use std::time::Duration;

use resp::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No reply of a server to the operator is longer; more than this is not our server.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// Why a call gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The server's error reply; the connection stays usable.
    #[error("{code} {message}")]
    Refused { code: String, message: String },
    /// Something that no server of ours says.
    #[error("unexpected reply: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The refusal's code (`STALEEPOCH`, `NOTREADY`, `WRONGPASS`, …).
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused { code, .. } => Some(code),
            ClientError::Io(_) | ClientError::TimedOut(_) | ClientError::Protocol(_) => None,
        }
    }

    /// Whether the other machine said that no program listens there.
    pub fn nobody_listens(&self) -> bool {
        matches!(self, ClientError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// Whether the connection can be used for another call.
    pub fn keeps_connection(&self) -> bool {
        matches!(self, ClientError::Refused { .. })
    }
}

/// `host:port`, whatever kind of address the host is.
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// One authenticated connection to a server, over TCP or whatever else leads there.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    stream: S,
    pending: Vec<u8>,
    reply_timeout: Duration,
}

impl Client {
    /// Connects to `address` (`host:port`) and authenticates. `reply_timeout` bounds the connecting, the authentication
    /// and every later call.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `WRONGPASS` or `NOAUTH` when the password is not the server's.
    pub async fn connect(
        address: &str,
        password: Option<&str>,
        reply_timeout: Duration,
    ) -> Result<Client, ClientError> {
        let stream = timeout(reply_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| ClientError::TimedOut(reply_timeout))??;
        stream.set_nodelay(true)?;
        Client::over(stream, password, reply_timeout).await
    }

    /// Comes when the connection is ended from the other side while nothing is asked.
    pub async fn ended(&self) {
        if let Ok(1..) = self.stream.peek(&mut [0]).await {
            // Nobody says anything unasked; the next call finds out what it is.
            std::future::pending::<()>().await;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// As [`Client::connect`], over a stream that is there.
    pub async fn over(stream: S, password: Option<&str>, reply_timeout: Duration) -> Result<Client<S>, ClientError> {
        let mut client = Client { stream, pending: Vec::new(), reply_timeout };
        if let Some(password) = password {
            client.call(&["AUTH", password]).await?;
        }
        Ok(client)
    }

    /// Sends one command and waits for its reply. An error reply is [`ClientError::Refused`].
    pub async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value, ClientError> {
        self.call_within(args, self.reply_timeout).await
    }

    /// As [`Client::call`], for a command that the server may hold longer than the usual time.
    pub async fn call_within<A: AsRef<[u8]>>(&mut self, args: &[A], limit: Duration) -> Result<Value, ClientError> {
        let mut request = Vec::with_capacity(128);
        resp::encode_command(&mut request, args);
        let reply = timeout(limit, async {
            self.stream.write_all(&request).await?;
            self.reply().await
        })
        .await
        .map_err(|_| ClientError::TimedOut(limit))??;
        match reply {
            Value::Error(text) => Err(refusal(&text)),
            value => Ok(value),
        }
    }

    async fn reply(&mut self) -> Result<Value, ClientError> {
        loop {
            match resp::decode_reply(&self.pending) {
                Ok(Some((value, len))) => {
                    self.pending.drain(..len);
                    return Ok(value);
                }
                Ok(None) => {}
                Err(error) => return Err(ClientError::Protocol(error.to_string())),
            }
            if self.pending.len() > REPLY_BYTES_MAX {
                return Err(ClientError::Protocol(format!("a reply of more than {REPLY_BYTES_MAX} bytes")));
            }
            if self.stream.read_buf(&mut self.pending).await? == 0 {
                return Err(ClientError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// `REPLICATED STATUS`: what the instance says of itself, field by field.
    pub async fn status(&mut self) -> Result<Fields, ClientError> {
        Fields::from_reply(self.call(&["REPLICATED", "STATUS"]).await?)
    }

    /// `REPLICATED PROMISE` (rule R2): the status taken after the promise was stored.
    ///
    /// # Errors
    /// `STALEEPOCH` when the instance has promised more.
    pub async fn promise(&mut self, epoch: u64) -> Result<Fields, ClientError> {
        Fields::from_reply(self.call(&["REPLICATED", "PROMISE", &epoch.to_string()]).await?)
    }

    /// `REPLICATED PROMOTE` (rule R7). `volumes` are those of all members, the instance's own among them.
    ///
    /// # Errors
    /// `STALEEPOCH`, `WRONGINCARNATION` or `NOTREADY`.
    pub async fn promote(
        &mut self,
        epoch: u64,
        incarnation: &str,
        write_quorum: u32,
        volumes: &[impl AsRef<str>],
    ) -> Result<(), ClientError> {
        let (epoch, write_quorum) = (epoch.to_string(), write_quorum.to_string());
        let mut args = vec!["REPLICATED", "PROMOTE", &epoch, incarnation, &write_quorum];
        args.extend(volumes.iter().map(AsRef::as_ref));
        self.call(&args).await.map(drop)
    }

    /// `REPLICATED LEASE` (rule R3): the lease runs `duration_ms` from the master's clock moment `token`, taken from its
    /// own status. Returns the milliseconds that are left of it.
    ///
    /// # Errors
    /// `STALEEPOCH`, `WRONGINCARNATION` or `NOTMASTER`.
    pub async fn lease(
        &mut self,
        epoch: u64,
        incarnation: &str,
        duration_ms: u64,
        token: u64,
    ) -> Result<u64, ClientError> {
        let args = [&epoch.to_string(), incarnation, &duration_ms.to_string(), &token.to_string()];
        let reply = self.call(&[&["REPLICATED", "LEASE"][..], &args].concat()).await?;
        unsigned(&reply)
    }

    /// `REPLICATED FOLLOW` (rule R8): attach to the master of `epoch`. Repeating the same is harmless.
    pub async fn follow(&mut self, host: &str, port: u16, epoch: u64) -> Result<(), ClientError> {
        self.call(&["REPLICATED", "FOLLOW", host, &port.to_string(), &epoch.to_string()]).await.map(drop)
    }

    /// `REPLICATED FOLLOWEXTERNAL`: attach, under `epoch`, to a master that is none of ours.
    pub async fn follow_external(
        &mut self,
        host: &str,
        port: u16,
        epoch: u64,
        password: Option<&str>,
    ) -> Result<(), ClientError> {
        let (port, epoch) = (port.to_string(), epoch.to_string());
        let mut args = vec!["REPLICATED", "FOLLOWEXTERNAL", host, &port, &epoch];
        args.extend(password);
        self.call(&args).await.map(drop)
    }

    /// `REPLICATED HANDOVER` (rule R10): the master pauses writes for at most `timeout_ms` and names its final offset.
    pub async fn handover(&mut self, epoch: u64, timeout_ms: u64) -> Result<u64, ClientError> {
        let reply = self.call(&["REPLICATED", "HANDOVER", &epoch.to_string(), &timeout_ms.to_string()]).await?;
        unsigned(&reply)
    }

    /// `REPLICATED AWAIT` (rule R1): have no role until the next one is given.
    pub async fn await_role(&mut self) -> Result<(), ClientError> {
        self.call(&["REPLICATED", "AWAIT"]).await.map(drop)
    }

    /// `REPLICATED ACCEPTMASTER`: let the next full resync pass the history fence once.
    pub async fn accept_master(&mut self) -> Result<(), ClientError> {
        self.call(&["REPLICATED", "ACCEPTMASTER"]).await.map(drop)
    }
}

/// Splits an error reply into its code (the first word, upper case) and the rest.
fn refusal(text: &str) -> ClientError {
    let (code, message) = text.split_once(' ').unwrap_or((text, ""));
    ClientError::Refused { code: code.to_string(), message: message.to_string() }
}

fn unsigned(reply: &Value) -> Result<u64, ClientError> {
    reply
        .as_i64()
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| ClientError::Protocol(format!("{reply} where a count was expected")))
}

/// Named text values of a `REPLICATED STATUS` reply, in the server's order.
#[derive(Clone, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads the flat array (RESP2) or the map (RESP3).
    pub fn from_reply(reply: Value) -> Result<Fields, ClientError> {
        let shown = reply.to_string();
        let pairs = reply.into_pairs().ok_or(ClientError::Protocol(shown))?;
        let text = |value: &Value| match value {
            Value::Int(n) => Ok(n.to_string()),
            other => other
                .as_str()
                .map(str::to_string)
                .ok_or_else(|| ClientError::Protocol(format!("status holds {other}, which is no text"))),
        };
        pairs
            .iter()
            .map(|(name, value)| Ok((text(name)?, text(value)?)))
            .collect::<Result<Vec<_>, ClientError>>()
            .map(Fields)
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A field that must be there.
    pub fn text(&self, name: &str) -> Result<&str, ClientError> {
        self.get(name).ok_or_else(|| ClientError::Protocol(format!("status has no field '{name}'")))
    }

    /// A field that must be an unsigned decimal number.
    pub fn number(&self, name: &str) -> Result<u64, ClientError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| ClientError::Protocol(format!("status field '{name}' is '{text}', no number")))
    }

    /// A field that must be 0 or 1.
    pub fn flag(&self, name: &str) -> Result<bool, ClientError> {
        match self.text(name)? {
            "0" => Ok(false),
            "1" => Ok(true),
            other => Err(ClientError::Protocol(format!("status field '{name}' is '{other}', neither 0 nor 1"))),
        }
    }

    /// All fields in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A peer that expects `script`'s requests in order and answers each with the bytes beside it, cut in two writes.
    async fn peer(script: &'static [(&'static [&'static str], &'static str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (request, reply) in script {
                let mut expected = Vec::new();
                resp::encode_command(&mut expected, request);
                let mut got = vec![0; expected.len()];
                stream.read_exact(&mut got).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
                let (a, b) = reply.as_bytes().split_at(reply.len() / 2);
                stream.write_all(a).await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(b).await.unwrap();
            }
            // Stays open until the client leaves, so that a time-out is a time-out.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        address
    }

    async fn client(script: &'static [(&'static [&'static str], &'static str)], password: Option<&str>) -> Client {
        Client::connect(&peer(script).await, password, Duration::from_secs(5)).await.unwrap()
    }

    #[tokio::test]
    async fn status_is_read_in_both_protocols() {
        let mut client = client(
            &[
                (&["AUTH", "secret"], "+OK\r\n"),
                (&["REPLICATED", "STATUS"], "*4\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$6\r\noffset\r\n$2\r\n42\r\n"),
                (&["REPLICATED", "PROMISE", "7"], "%1\r\n$6\r\nloaded\r\n$1\r\n1\r\n"),
            ],
            Some("secret"),
        )
        .await;
        let status = client.status().await.unwrap();
        assert_eq!((status.text("role").unwrap(), status.number("offset").unwrap()), ("master", 42));
        assert!(status.number("role").is_err(), "a word is no number");
        assert!(status.text("keys").is_err(), "a missing field is an error");
        assert!(client.promise(7).await.unwrap().flag("loaded").unwrap());
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_connection() {
        let mut client = client(
            &[
                (&["REPLICATED", "PROMISE", "3"], "-STALEEPOCH 9 promised more\r\n"),
                (&["REPLICATED", "LEASE", "9", "00ff", "2000", "123456"], ":1990\r\n"),
                (&["REPLICATED", "PROMOTE", "9", "00ff", "1", "aa", "bb"], "+OK\r\n"),
                (&["REPLICATED", "FOLLOW", "127.0.0.1", "7001", "9"], "+OK\r\n"),
                (&["REPLICATED", "HANDOVER", "9", "150"], ":77\r\n"),
            ],
            None,
        )
        .await;
        let refused = client.promise(3).await.unwrap_err();
        assert_eq!((refused.code(), refused.keeps_connection()), (Some("STALEEPOCH"), true));
        assert_eq!(refused.to_string(), "STALEEPOCH 9 promised more");
        assert_eq!(client.lease(9, "00ff", 2000, 123_456).await.unwrap(), 1990);
        client.promote(9, "00ff", 1, &["aa", "bb"]).await.unwrap();
        client.follow("127.0.0.1", 7001, 9).await.unwrap();
        assert_eq!(client.handover(9, 150).await.unwrap(), 77);
    }

    #[tokio::test]
    async fn silence_and_nonsense_are_errors() {
        let address = peer(&[]).await;
        let mut silent = Client::connect(&address, None, Duration::from_millis(30)).await.unwrap();
        assert!(matches!(silent.status().await, Err(ClientError::TimedOut(_))));

        let mut rude = client(&[(&["REPLICATED", "STATUS"], "HTTP/1.1 400\r\n")], None).await;
        let error = rude.status().await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)) && !error.keeps_connection(), "{error}");
    }

    #[tokio::test]
    async fn a_refused_password_is_named() {
        let address = peer(&[(&["AUTH", "old"], "-WRONGPASS invalid username-password pair\r\n")]).await;
        let error = Client::connect(&address, Some("old"), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.code(), Some("WRONGPASS"));
    }
}
