//! The way to a NATS server: address, credentials, version, and the streams of a run.

use std::{path::PathBuf, time::Duration};

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        self,
        consumer::{AckPolicy, pull},
        stream::{self, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use tokio::runtime::Runtime;

use super::{
    error::Error,
    protocol::{RunId, Subjects},
};

/// Where the server is, and who asks.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `nats://HOST:4222`, `tls://…`, with `USER:PASSWORD@` or `TOKEN@`; several, separated by commas, of one cluster.
    pub url: String,
    /// A credentials file (JWT and seed).
    pub creds: Option<PathBuf>,
    /// A file with the seed of an NKey.
    pub nkey: Option<PathBuf>,
    /// Certificates of authorities that the server's own is signed by, besides the system's.
    pub ca: Option<PathBuf>,
}

/// The oldest server whose configuration knows `sync_interval`.
const OLDEST: (u64, u64) = (2, 10);

/// How long a unit may be out without a word before the server hands it to somebody else; workers say a word three times as
/// often. The coordinator's own clock is faster.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// Times that the server hands a unit out by itself; then the coordinator issues it again, or takes it away.
const MOST_DELIVERIES: i64 = 4;

/// What lies on a server whose coordinator never came back.
const LEFT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long the server tells a message that was sent twice from two.
const TWICE_WITHIN: Duration = Duration::from_secs(120);

/// The consumer that workers share.
pub const CONSUMER: &str = "workers";

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What the network's work runs on.
///
/// # Errors
/// The system has no threads left.
pub fn threads(count: usize) -> Result<Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build();
    runtime.map_err(|source| Error::Io {
        path: "threads for the network".into(),
        source,
    })
}

/// An address without what is secret in it, and that.
#[derive(Debug, PartialEq)]
struct Address {
    plain: String,
    user: Option<String>,
    password: Option<String>,
}

impl Address {
    fn read(url: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Url {
            url: without_secrets(url),
            reason: reason.into(),
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        if !matches!(scheme, "nats" | "tls") {
            return Err(wrong("its scheme is neither nats nor tls"));
        }
        let (secret, host) = match rest.rsplit_once('@') {
            Some((secret, host)) => (Some(secret), host),
            None => (None, rest),
        };
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains('/') {
            return Err(wrong("it names no host"));
        }
        let plain = format!("{scheme}://{host}");
        let (user, password) = match secret.map(|secret| secret.split_once(':').unwrap_or((secret, ""))) {
            None => (None, None),
            Some((user, password)) => {
                let decoded =
                    |text: &str| decoded(text).ok_or_else(|| wrong("a '%' in it is followed by no two digits"));
                (Some(decoded(user)?), Some(decoded(password)?).filter(|p| !p.is_empty()))
            }
        };
        Ok(Self { plain, user, password })
    }
}

/// What a message may show of an address.
pub fn without_secrets(url: &str) -> String {
    let plain = |one: &str| match (one.split_once("://"), one.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_string(),
        _ => one.to_string(),
    };
    url.split(',').map(plain).collect::<Vec<_>>().join(",")
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// What the link says of itself while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    Up,
    Down,
    Trouble(String),
}

/// Connects, and sees whether the server will do. From then on the link mends itself for as long as it takes.
///
/// # Errors
/// An address or a file that is none, nobody answers, or the server is too old.
pub async fn connect(
    options: &Options,
    name: &str,
    listener: impl Fn(Word) + Send + Sync + 'static,
) -> Result<Client, Error> {
    let addresses: Vec<Address> = options
        .url
        .split(',')
        .map(|one| Address::read(one.trim()))
        .collect::<Result<_, _>>()?;
    let servers: Vec<String> = addresses.iter().map(|address| address.plain.clone()).collect();
    let server = servers.join(",");
    let mut connecting = settings(options, &addresses, name).await?;
    connecting = connecting.event_callback(move |event| {
        match event {
            Event::Connected => listener(Word::Up),
            Event::Disconnected => listener(Word::Down),
            Event::ServerError(e) => listener(Word::Trouble(e.to_string())),
            // Of a link that is down; that is said already.
            Event::ClientError(e) => tracing::debug!("the link to the server: {e}"),
            _ => {}
        }
        async {}
    });
    let client = connecting.connect(servers).await.map_err(|e| {
        use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
        let (server, reason) = (server.clone(), whole(&e));
        match e.kind() {
            Authentication | AuthorizationViolation => Error::Unauthorized { server, reason },
            _ if reason.contains("certificate") => Error::Certificate { server, reason },
            _ => Error::Connect { server, reason },
        }
    })?;
    let version = client.server_info().version;
    if !is_new_enough(&version) {
        return Err(Error::OldServer { server, version });
    }
    Ok(client)
}

async fn settings(options: &Options, addresses: &[Address], name: &str) -> Result<ConnectOptions, Error> {
    let mut settings = ConnectOptions::new()
        .name(name)
        .connection_timeout(CONNECT_WITHIN)
        .ping_interval(Duration::from_secs(10))
        // What is asked for must never be more than is known; a retry comes soon.
        .reconnect_delay_callback(|attempts| Duration::from_millis((100 * attempts as u64).min(2000)));
    let secret = addresses
        .iter()
        .find_map(|address| Some((address.user.clone()?, &address.password)));
    settings = match secret {
        Some((user, Some(password))) => settings.user_and_password(user, password.clone()),
        Some((token, None)) => settings.token(token),
        None => settings,
    };
    let failed = |option: &'static str, path: &PathBuf| {
        let path = path.clone();
        move |source| Error::Credentials { option, path, source }
    };
    if let Some(path) = &options.creds {
        settings = settings
            .credentials_file(path)
            .await
            .map_err(failed("--nats-creds", path))?;
    }
    if let Some(path) = &options.nkey {
        let seed = std::fs::read_to_string(path).map_err(failed("--nats-nkey", path))?;
        // The line that begins with S; files of `nk` may have comments.
        let line = seed.lines().map(str::trim).find(|line| line.starts_with('S'));
        let none = || std::io::Error::other("there is no seed in it, which begins with S");
        let seed = line.ok_or_else(none).map_err(failed("--nats-nkey", path))?;
        settings = settings.nkey(seed.into());
    }
    if let Some(path) = &options.ca {
        std::fs::metadata(path).map_err(failed("--nats-ca", path))?;
        settings = settings.add_root_certificates(path.clone());
    }
    Ok(settings)
}

/// An error with what lies behind it.
pub fn whole(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = inner.source();
    }
    text
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u64>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

/// The streams of a run, made if they are missing.
///
/// # Errors
/// There is no JetStream, or it refuses them.
pub async fn streams(context: &jetstream::Context, run: &RunId) -> Result<(), Error> {
    let subjects = Subjects::of(run);
    let common = |name: String, subject: String, retention| stream::Config {
        name,
        subjects: vec![subject],
        retention,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_age: LEFT_FOR,
        duplicate_window: TWICE_WITHIN,
        num_replicas: 1,
        ..stream::Config::default()
    };
    let ask = common(run.ask_stream(), subjects.ask(), RetentionPolicy::WorkQueue);
    let tell = common(run.tell_stream(), subjects.tell(), RetentionPolicy::Limits);
    for config in [ask, tell] {
        context.get_or_create_stream(config).await.map_err(|e| {
            let (server, reason) = (server_of(context), whole(&e));
            match context.client().server_info().jetstream {
                true => Error::Refused {
                    server,
                    what: "a stream",
                    reason,
                },
                false => Error::NoJetStream { server, reason },
            }
        })?;
    }
    let workers = pull::Config {
        durable_name: Some(CONSUMER.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: MOST_DELIVERIES,
        max_ack_pending: 65_536,
        max_waiting: 65_536,
        ..pull::Config::default()
    };
    let made = context.create_consumer_on_stream(workers, run.ask_stream()).await;
    made.map(drop).map_err(|e| Error::Refused {
        server: server_of(context),
        what: "a consumer",
        reason: whole(&e),
    })
}

fn server_of(context: &jetstream::Context) -> String {
    let info = context.client().server_info();
    format!("{}:{}", info.host, info.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> (String, Option<String>, Option<String>) {
        let Address { plain, user, password } = Address::read(url).unwrap();
        (plain, user, password)
    }

    #[test]
    fn secrets_are_taken_out_of_an_address() {
        let some = |text: &str| Some(text.to_string());
        assert_eq!(address("nats://h:4222"), ("nats://h:4222".into(), None, None));
        assert_eq!(address("h"), ("nats://h".into(), None, None));
        assert_eq!(
            address("tls://me:p%40ss:w@h:4222/"),
            ("tls://h:4222".into(), some("me"), some("p@ss:w"))
        );
        assert_eq!(address("nats://t0ken@h"), ("nats://h".into(), some("t0ken"), None));
        for wrong in ["http://h", "nats://", "nats://h/path", "nats://%4@h", "nats://%zz@h"] {
            assert!(Address::read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(without_secrets("nats://a:b@h,tls://c@i:1"), "nats://h,tls://i:1");
        assert!(
            !Address::read("http://me:secret@h")
                .unwrap_err()
                .to_string()
                .contains("secret")
        );
    }

    /// Debian bookworm's 2.9.10 refuses `sync_interval`, without which acknowledged messages may be lost.
    #[test]
    fn servers_before_2_10_are_told_apart() {
        for (version, is_new) in [
            ("2.9.10", false),
            ("2.10.0", true),
            ("2.15.1", true),
            ("2.10.0-beta.1", true),
            ("3.0.0", true),
            ("", false),
            ("x.y", false),
        ] {
            assert_eq!(is_new_enough(version), is_new, "{version}");
        }
    }
}
