//! One session: simple queries and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use walarchive_core::{Error, Result};

use crate::error::{Failure, NO_DATABASE, Notice, Refusal};
use crate::hosts::{Host, Place, hosts};
use crate::mode::Mode;
use crate::params::Params;
use crate::startup::{Encryption, Plan, Started};
use crate::wire::{Incoming, Wire};

/// For statements that take no time by themselves.
const SHORT: Duration = Duration::from_secs(60);

/// Called with each message that the server sends beside its answers.
pub type Listener = Box<dyn FnMut(&Notice) + Send>;

/// A connection to a server. It ends when this is dropped.
pub struct Session {
    pub(crate) wire: Wire,
    parameters: BTreeMap<String, String>,
    server: String,
    canceller: Canceller,
    listener: Option<Listener>,
    /// A query was given up in the middle, so its answer may still come.
    is_spoiled: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// One row, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// A column; none if it is NULL or not there.
    pub fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    /// A column, which is empty if it is NULL.
    pub fn text(&self, column: usize) -> &str {
        self.get(column).unwrap_or_default()
    }

    /// A column that must be a value of this type.
    pub fn parse<T: std::str::FromStr>(&self, column: usize) -> Result<T> {
        self.text(column)
            .parse()
            .map_err(|_| Error::defect(format!("the server answered \"{}\"", self.text(column).escape_debug())))
    }

    /// A boolean column.
    pub fn is_true(&self, column: usize) -> bool {
        self.get(column) == Some("t")
    }

    fn of(body: &DataRowBody) -> std::io::Result<Self> {
        let bytes = body.buffer();
        let mut columns = Vec::new();
        let mut ranges = body.ranges();
        while let Some(range) = ranges.next()? {
            columns.push(range.map(|range| String::from_utf8_lossy(&bytes[range]).into_owned()));
        }
        Ok(Row(columns))
    }
}

impl Session {
    /// Connect to the first server of the parameters that answers and is of the kind that `target_session_attrs` asks for. If
    /// no database is named and that of the role's name does not exist, it is `postgres`.
    pub async fn connect(params: &Params, mode: Mode) -> Result<Self> {
        match Self::connect_once(params, mode).await {
            Err((Refusal::Server(notice), server)) => {
                if notice.code == NO_DATABASE && mode == Mode::Sql && params.get("dbname").is_none() {
                    let params = params.with_database("postgres");
                    let again = Box::pin(Self::connect_once(&params, mode)).await;
                    return again.map_err(|(refusal, server)| refusal.into_error(&server, mode));
                }
                Err(Refusal::Server(notice).into_error(&server, mode))
            }
            connected => connected.map_err(|(refusal, server)| refusal.into_error(&server, mode)),
        }
    }

    async fn connect_once(params: &Params, mode: Mode) -> Result<Self, (Refusal, String)> {
        let here = |error: Error| (Refusal::Here(error), String::new());
        let replication = (mode == Mode::Replication).then_some("true");
        let plan = Arc::new(Plan::new(params, replication).map_err(here)?);
        let hosts = hosts(params).map_err(here)?;
        let wanted = Wanted::of(params).map_err(here)?;
        let mut last: Option<(Refusal, String)> = None;
        // With prefer-standby any server is good in the second round.
        for round in wanted.rounds() {
            for host in &hosts {
                if let Some((refusal, server)) = last.take()
                    && hosts.len() > 1
                {
                    tracing::warn!("{}", Refusal::into_error(refusal, &server, mode));
                }
                match Self::at(&plan, host, *round).await {
                    Ok(session) => return Ok(session),
                    Err(refusal) => last = Some((refusal, host.to_string())),
                }
            }
        }
        Err(last.unwrap_or_else(|| here(Error::defect("there is no host to connect to"))))
    }

    async fn at(plan: &Arc<Plan>, host: &Host, wanted: Wanted) -> Result<Self, Refusal> {
        let Started {
            wire,
            parameters,
            key,
            encryption,
        } = plan.start(host).await?;
        let mut session = Session {
            wire,
            parameters,
            server: host.to_string(),
            canceller: Canceller {
                plan: Arc::clone(plan),
                host: host.clone(),
                encryption,
                key,
            },
            listener: None,
            is_spoiled: false,
        };
        session.check_kind(wanted).await?;
        Ok(session)
    }

    /// A way to further sessions at the same server.
    pub fn door(&self) -> Door {
        Door {
            plan: Arc::clone(&self.canceller.plan),
            host: self.canceller.host.clone(),
        }
    }

    async fn check_kind(&mut self, wanted: Wanted) -> Result<(), Refusal> {
        let (setting, good) = match wanted {
            Wanted::Any => return Ok(()),
            Wanted::Writable => ("transaction_read_only", "off"),
            Wanted::ReadOnly => ("transaction_read_only", "on"),
            Wanted::Primary => ("in_recovery", "f"),
            Wanted::Standby => ("in_recovery", "t"),
        };
        // From 14 on the server reports it, which serves the replication protocol, too.
        if let Some(standby) = self.parameter("in_hot_standby") {
            let read_only = standby == "on" || self.parameter("default_transaction_read_only") == Some("on");
            let is_good = match wanted {
                Wanted::Any => true,
                Wanted::Writable => !read_only,
                Wanted::ReadOnly => read_only,
                Wanted::Primary => standby == "off",
                Wanted::Standby => standby == "on",
            };
            return if is_good { Ok(()) } else { Err(other_kind()) };
        }
        let sql = match setting {
            "in_recovery" => "SELECT pg_catalog.pg_is_in_recovery()",
            _ => "SHOW transaction_read_only",
        };
        let rows = self
            .query("say what kind of server it is", sql)
            .await
            .map_err(Refusal::Here)?;
        match rows.first().map(|row| row.text(0)) == Some(good) {
            true => Ok(()),
            false => Err(other_kind()),
        }
    }

    /// The server, for messages: its socket, or its name and port.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The name of the server's host: as it was given, or this host's for a Unix socket.
    pub fn host(&self) -> String {
        match &self.canceller.host.place {
            Place::Socket(_) => {
                let name = nix::unistd::gethostname();
                name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Place::Network { name: Some(name), .. } => name.clone(),
            Place::Network { address, .. } => address.map(|address| address.to_string()).unwrap_or_default(),
        }
    }

    /// The process of the server that serves this session, if it said so.
    pub fn process(&self) -> Option<i32> {
        self.canceller.key.map(|(process, _)| process)
    }

    /// The server's report of itself, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Have notices and warnings brought there. Without it they go to the log, if that is verbose.
    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Ends a statement of this session from outside.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// One statement that takes no time. `what` tells what it is for, after "could not".
    pub async fn query(&mut self, what: &str, sql: &str) -> Result<Vec<Row>> {
        self.query_within(what, sql, SHORT).await
    }

    /// The same with another deadline. If it passes, or the future is dropped, the session is of no more use.
    pub async fn query_within(&mut self, what: &str, sql: &str, deadline: Duration) -> Result<Vec<Row>> {
        self.send_query(sql).await?;
        match tokio::time::timeout(deadline, self.answer(what)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Error::server(
                format!("the server did not {what} within {} s", deadline.as_secs()),
                "See the server's log, and what it is waiting for in pg_stat_activity.",
            )),
        }
    }

    /// Send a statement, whose answer must be read to its end then.
    pub(crate) async fn send_query(&mut self, sql: &str) -> Result<()> {
        if self.is_spoiled {
            return Err(Error::defect("a session is used again after a query was given up"));
        }
        self.is_spoiled = true;
        let sent = self.wire.send(|buffer| frontend::query(sql, buffer)).await;
        sent.map_err(|error| self.lost_by(&error.to_string()))
    }

    /// All rows up to the end of the answer.
    async fn answer(&mut self, what: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while let Some(message) = self.next(what).await? {
            if let Message::DataRow(body) = message {
                rows.push(Row::of(&body).map_err(|error| self.lost_by(&error.to_string()))?);
            }
        }
        Ok(rows)
    }

    /// One command without rows, and what the server says to it.
    pub(crate) async fn command(&mut self, command: &str) -> Result<(), Failure> {
        self.send_query(command).await?;
        let answer = async {
            while self.answered().await?.is_some() {}
            Ok(())
        };
        let slow = |_| {
            let message = format!("the server did not answer within {} s", SHORT.as_secs());
            Failure::Lost(Error::server(message, "See the server's log."))
        };
        tokio::time::timeout(SHORT, answer).await.map_err(slow)?
    }

    /// The next message of an answer; none at its end. An error of the server's is one after the answer has ended.
    pub(crate) async fn next(&mut self, what: &str) -> Result<Option<Message>> {
        self.answered().await.map_err(|failure| failure.into_error(what))
    }

    /// The same, with the server's error as it is.
    pub(crate) async fn answered(&mut self) -> Result<Option<Message>, Failure> {
        let mut failure: Option<Notice> = None;
        loop {
            let message = match self.wire.next().await {
                Ok(Incoming::Message(message)) => message,
                Ok(Incoming::CopyBoth) => {
                    return Err(Error::defect("a replication stream came without having been asked for").into());
                }
                // A server that ends says why before it does.
                Err(error) => {
                    return Err(match failure {
                        Some(notice) => Failure::Server(notice),
                        None => self.lost_by(&error.to_string()).into(),
                    });
                }
            };
            match message {
                Message::ErrorResponse(body) => {
                    failure = Some(self.notice(body.fields())?);
                }
                Message::NoticeResponse(body) => self.tell(body.fields())?,
                Message::ParameterStatus(body) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                Message::NotificationResponse(_) => {}
                Message::ReadyForQuery(_) => {
                    self.is_spoiled = false;
                    return match failure {
                        Some(notice) => Err(Failure::Server(notice)),
                        None => Ok(None),
                    };
                }
                other if failure.is_none() => return Ok(Some(other)),
                _ => {}
            }
        }
    }

    pub(crate) fn row(&self, body: &DataRowBody) -> Result<Row> {
        Row::of(body).map_err(|error| self.lost_by(&error.to_string()))
    }

    /// Wait, while nothing was asked, until the connection is lost. The future may be dropped.
    pub async fn lost(&mut self) -> Error {
        loop {
            let reason = match self.wire.next().await {
                Ok(Incoming::Message(Message::ErrorResponse(body))) => match self.notice(body.fields()) {
                    Ok(notice) => notice.message,
                    Err(error) => return error,
                },
                Ok(Incoming::Message(Message::NoticeResponse(body))) => match self.tell(body.fields()) {
                    Ok(()) => continue,
                    Err(error) => return error,
                },
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            return self.lost_by(&reason);
        }
    }

    pub(crate) fn notice(&self, fields: postgres_protocol::message::backend::ErrorFields<'_>) -> Result<Notice> {
        Notice::of(fields).map_err(|error| self.lost_by(&error.to_string()))
    }

    pub(crate) fn tell(&mut self, fields: postgres_protocol::message::backend::ErrorFields<'_>) -> Result<()> {
        let notice = self.notice(fields)?;
        match &mut self.listener {
            Some(listener) => listener(&notice),
            None => tracing::debug!(message = notice.message, "the server says"),
        }
        Ok(())
    }

    pub(crate) fn lost_by(&self, reason: &str) -> Error {
        Error::server(
            format!("the connection to the server at {} was lost: {reason}", self.server),
            "See the server's log.",
        )
    }
}

fn other_kind() -> Refusal {
    Refusal::Unreachable("it is not of the kind that PGTARGETSESSIONATTRS asks for".to_owned())
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Writable,
    ReadOnly,
    Primary,
    Standby,
}

/// With a server that is good enough if there is no such one.
struct WantedKinds(&'static [Wanted]);

impl WantedKinds {
    fn rounds(&self) -> &'static [Wanted] {
        self.0
    }
}

impl Wanted {
    fn of(params: &Params) -> Result<WantedKinds> {
        Ok(WantedKinds(match params.get("target_session_attrs") {
            None | Some("any") => &[Wanted::Any],
            Some("read-write") => &[Wanted::Writable],
            Some("read-only") => &[Wanted::ReadOnly],
            Some("primary") => &[Wanted::Primary],
            Some("standby") => &[Wanted::Standby],
            Some("prefer-standby") => &[Wanted::Standby, Wanted::Any],
            Some(other) => {
                return Err(Error::config(
                    format!(
                        "PGTARGETSESSIONATTRS is \"{}\", which is no kind of server",
                        other.escape_debug()
                    ),
                    "Set it to any, read-write, read-only, primary, standby or prefer-standby.",
                ));
            }
        }))
    }
}

/// Opens sessions at the server of another one.
#[derive(Clone)]
pub struct Door {
    plan: Arc<Plan>,
    host: Host,
}

impl Door {
    /// Connect to a database for SQL. The session begins with these settings, which nothing that the database or a role has set
    /// can change.
    pub async fn enter(&self, database: &str, settings: &[(&str, &str)]) -> Result<Session> {
        let plan = Arc::new(self.plan.in_database(database, settings));
        let entered = Session::at(&plan, &self.host, Wanted::Any).await;
        entered.map_err(|refusal| refusal.into_error(&self.host.to_string(), Mode::Sql))
    }

    /// Connect for SQL to any database: that of the parameters, or else that of the role's name, or `postgres`.
    pub(crate) async fn enter_any(&self, params: &Params) -> Result<Session> {
        if let Some(database) = params.get("dbname") {
            return self.enter(database, &[]).await;
        }
        match self.enter(&self.plan.user, &[]).await {
            Ok(session) => Ok(session),
            Err(_) => self.enter("postgres", &[]).await,
        }
    }
}

/// Ends the running statement of a session.
#[derive(Clone)]
pub struct Canceller {
    plan: Arc<Plan>,
    host: Host,
    encryption: Encryption,
    key: Option<(i32, i32)>,
}

impl Canceller {
    /// Ask the server, which may come too late. The statement itself tells how it ended.
    pub async fn cancel(&self) -> Result<()> {
        let Some((process, secret)) = self.key else {
            return Err(Error::defect("the server gave no key to cancel with"));
        };
        let ask = async {
            let mut stream = self.plan.stream(&self.host, self.encryption).await?;
            let mut request = bytes::BytesMut::new();
            frontend::cancel_request(process, secret, &mut request);
            stream.write_all(&request).await?;
            stream.flush().await?;
            stream.shutdown().await?;
            Ok::<(), Refusal>(())
        };
        match tokio::time::timeout(self.plan.timeout, ask).await {
            Ok(asked) => asked.map_err(|refusal| refusal.into_error(&self.host.to_string(), Mode::Sql)),
            Err(_elapsed) => Err(Error::timeout("cancel", self.host.to_string(), self.plan.timeout)),
        }
    }
}
