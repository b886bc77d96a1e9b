//! Fetches what an address holds: bounded, with a few tries, going on where a broken connection left off.
//!
//! A token is sent to the host that was named and to no other: it does not follow a redirect.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

/// Tries in a row that bring nothing before it is given up.
const TRIES: u32 = 3;

/// Before another try; doubled with each one that brought nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// A try that brings less of a long file brings nothing: whoever sends two bytes at a time would have us ask for ever.
const SOMETHING: u64 = 1 << 20;

/// Why an address gave nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum HttpError {
    /// The server answers, and says no.
    #[error("{url} answers with status {status}{}", said.as_deref().map(|said| format!(": {said}")).unwrap_or_default())]
    Status {
        url: String,
        status: u16,
        /// What the Hub adds in `X-Error-Code`.
        code: Option<String>,
        /// In the server's words, where it was sent something.
        said: Option<String>,
    },
    /// No whole answer arrives.
    #[error("{url}: {reason}")]
    Transport { url: String, reason: String },
    /// There is more of it than the caller takes.
    #[error("{url} sends more than {limit} bytes, and so more than there may be")]
    TooLong { url: String, limit: u64 },
    /// The content is shorter than it was said to be, and asking for the rest brought nothing.
    #[error("{url} ended after {got} of {expected} bytes")]
    Short { url: String, got: u64, expected: u64 },
    /// The answer cannot be put where it is to go.
    #[error("cannot write what arrives: {0}")]
    Write(#[source] std::io::Error),
}

impl HttpError {
    /// What the server says no to, it will say no to again; a fault on the way may be over.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Transport { .. } | Self::Short { .. } => true,
            Self::TooLong { .. } | Self::Write(_) => false,
        }
    }
}

/// What an address holds.
#[derive(Debug)]
pub struct Answer {
    /// The content as it was sent.
    pub body: Vec<u8>,
    /// The address of the next page, if the answer names one (RFC 8288, `rel="next"`).
    pub next: Option<String>,
}

/// A client that keeps its connections.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    pause: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self::with_pause(PAUSE)
    }
}

impl Http {
    /// One that waits so long before another try, doubled with each one that brought nothing.
    pub fn with_pause(pause: Duration) -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("heterosis/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A body that stands still is given up and gone on with; one that takes longer than that, too.
            .timeout_recv_body(Some(Duration::from_secs(600)))
            .build();
        Self {
            agent: config.into(),
            pause,
        }
    }

    /// The whole content of an address.
    ///
    /// **Errors**: [`HttpError`]; more than `limit` bytes is one.
    pub fn get(&self, url: &str, token: Option<&str>, limit: u64) -> Result<Answer, HttpError> {
        self.retried(|| {
            let response = self.ask(url, token, 0)?;
            let next = next_page(response.headers());
            let mut body = Vec::new();
            let mut reader = response.into_body().into_reader().take(limit + 1);
            reader.read_to_end(&mut body).map_err(|e| transport(url, &e))?;
            if body.len() as u64 > limit {
                return Err(HttpError::TooLong {
                    url: url.to_owned(),
                    limit,
                });
            }
            Ok(Answer { body, next })
        })
    }

    /// Appends to `out`, which may hold the beginning already, until it holds the `size` bytes of the address.
    ///
    /// `report` is told of bytes as they are there, those of the beginning included.
    ///
    /// **Errors**: [`HttpError`]; what arrived stays in `out`.
    pub fn download(
        &self,
        url: &str,
        token: Option<&str>,
        out: &mut File,
        size: u64,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), HttpError> {
        let mut done = length(out)?;
        if done > size {
            truncate(out)?;
            done = 0;
        }
        report(done);
        let mut in_vain = 0;
        while done < size {
            let before = done;
            match self.go_on(url, token, out, &mut done, size, report) {
                Ok(()) => {}
                Err(e) if !e.may_pass() => return Err(e),
                Err(e) => {
                    in_vain = if done >= before + SOMETHING { 0 } else { in_vain + 1 };
                    if in_vain == TRIES {
                        return Err(e);
                    }
                    self.wait(in_vain);
                }
            }
        }
        Ok(())
    }

    fn go_on(
        &self,
        url: &str,
        token: Option<&str>,
        out: &mut File,
        done: &mut u64,
        size: u64,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), HttpError> {
        let response = self.ask(url, token, *done)?;
        if *done > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            truncate(out)?;
            *done = 0;
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = reader.read(&mut buffer).map_err(|e| transport(url, &e))?;
            if read == 0 {
                break;
            }
            if *done + read as u64 > size {
                return Err(HttpError::TooLong {
                    url: url.to_owned(),
                    limit: size,
                });
            }
            out.write_all(&buffer[..read]).map_err(HttpError::Write)?;
            *done += read as u64;
            report(read as u64);
        }
        match *done == size {
            true => Ok(()),
            false => Err(HttpError::Short {
                url: url.to_owned(),
                got: *done,
                expected: size,
            }),
        }
    }

    fn retried<T>(&self, mut once: impl FnMut() -> Result<T, HttpError>) -> Result<T, HttpError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match once() {
                Err(e) if e.may_pass() && tries < TRIES => self.wait(tries),
                result => return result,
            }
        }
    }

    /// After so many tries.
    fn wait(&self, tries: u32) {
        std::thread::sleep(self.pause * (1 << tries));
    }

    /// Sends a JSON document, once: whoever takes it may have taken it before a connection breaks.
    ///
    /// **Errors**: [`HttpError`]; no answer has begun after `wait`. A longer answer than `limit` bytes is cut.
    pub fn post_json(
        &self,
        url: &str,
        token: Option<&str>,
        json: &str,
        wait: Duration,
        limit: u64,
    ) -> Result<Vec<u8>, HttpError> {
        let request = self.agent.post(url).config().timeout_recv_response(Some(wait)).build();
        let mut request = request.header("Content-Type", "application/json");
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.send(json).map_err(|e| transport(url, &e))?;
        let status = response.status();
        let mut body = Vec::new();
        let mut reader = response.into_body().into_reader().take(limit);
        let read = reader.read_to_end(&mut body);
        if !status.is_success() {
            return Err(HttpError::Status {
                url: url.to_owned(),
                status: status.as_u16(),
                code: None,
                said: said(&body),
            });
        }
        read.map_err(|e| transport(url, &e))?;
        Ok(body)
    }

    fn ask(&self, url: &str, token: Option<&str>, from: u64) -> Result<Response<Body>, HttpError> {
        let mut request = self.agent.get(url);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|e| transport(url, &e))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(HttpError::Status {
                url: url.to_owned(),
                status: response.status().as_u16(),
                code: header(response.headers(), "x-error-code"),
                said: None,
            }),
        }
    }
}

/// Most of a server's own words that go into an error, in characters.
const SAID: usize = 300;

/// Why a server says no: the message of an error in OpenAI's form, or the beginning of whatever it sent, in one line.
fn said(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let json: Option<Value> = serde_json::from_str(&text).ok();
    let message = json.as_ref().and_then(|json| json.pointer("/error/message")?.as_str());
    let words = message
        .unwrap_or(&text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    (!words.is_empty()).then(|| words.chars().filter(|c| !c.is_control()).take(SAID).collect())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = header(headers, "link")?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}

fn transport(url: &str, error: &dyn std::error::Error) -> HttpError {
    // The causes tell "no such host" from "refused".
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    HttpError::Transport {
        url: url.to_owned(),
        reason,
    }
}

fn length(out: &File) -> Result<u64, HttpError> {
    Ok(out.metadata().map_err(HttpError::Write)?.len())
}

fn truncate(out: &mut File) -> Result<(), HttpError> {
    out.set_len(0).map_err(HttpError::Write)?;
    out.seek(SeekFrom::Start(0)).map_err(HttpError::Write)?;
    Ok(())
}

/// SHA-256 of a whole file, as hexadecimal digits.
pub(crate) fn sha256(file: &mut File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
