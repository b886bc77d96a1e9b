//! A web server for tests, on a port of this machine: it answers as a script says, and keeps what it was asked.
//!
//! One answer a connection, each connection on a thread of its own: a client may have several open.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What somebody asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `POST`.
    pub method: String,
    /// With what follows a question mark.
    pub path: String,
    /// What stands behind `Authorization:`, empty without.
    pub authorization: String,
    /// As many bytes as `Content-Length:` says.
    pub body: Vec<u8>,
}

/// What follows `HTTP/1.1 `, up to the headers about the body, and the body.
pub type Answer = (String, Vec<u8>);

/// A server that answers until the test is over.
#[derive(Debug)]
pub struct Scripted {
    /// `http://127.0.0.1:PORT`
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// Answers by a script.
    ///
    /// ```
    /// use heterosis_checkpoint::{http::Http, scripted::Scripted};
    ///
    /// let server = Scripted::answering(|asked| match asked.path.as_str() {
    ///     "/there" => ("200 OK".into(), b"it is".to_vec()),
    ///     _ => ("404 Not Found".into(), Vec::new()),
    /// });
    /// let there = Http::default().get(&format!("{}/there", server.address), Some("secret"), 100)?;
    /// assert_eq!(there.body, b"it is");
    /// assert_eq!(server.asked()[0].authorization, "Bearer secret");
    /// assert!(Http::default().get(&format!("{}/elsewhere", server.address), None, 100).is_err());
    /// # Ok::<(), heterosis_checkpoint::http::HttpError>(())
    /// ```
    pub fn answering(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::knowing_itself(|_| script)
    }

    /// As [`Self::answering`], by a script that names the server's own address.
    ///
    /// # Panics
    /// No port is free.
    pub fn knowing_itself<S>(script: impl FnOnce(&str) -> S) -> Self
    where
        S: Fn(&Asked) -> Answer + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (script, asked) = (Arc::new(script(&address)), Arc::new(Mutex::new(Vec::new())));
        let keep = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, keep) = (script.clone(), keep.clone());
                // A client that goes away is none of the server's troubles.
                thread::spawn(move || answer(stream, &*script, &keep).ok());
            }
        });
        Self { address, asked }
    }

    /// Everything so far, in the order in which it was read.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().map(|asked| asked.clone()).unwrap_or_default()
    }
}

fn answer(mut stream: TcpStream, script: &dyn Fn(&Asked) -> Answer, keep: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let Some(asked) = read(&stream)? else { return Ok(()) };
    let (head, body) = script(&asked);
    if let Ok(mut keep) = keep.lock() {
        keep.push(asked);
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

/// `None` of a connection over which nothing comes.
fn read(stream: &TcpStream) -> std::io::Result<Option<Asked>> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut authorization) = (String::new(), 0, String::new());
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        match header.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = value.trim().into(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked {
        method,
        path,
        authorization,
        body,
    }))
}
