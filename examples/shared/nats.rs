//! A NATS server with the configuration that is shipped, and a port and a store of its own; `NATS_SERVER` names the program.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

pub struct Server {
    dir: PathBuf,
    port: u16,
    /// Where it tells what it does, over HTTP.
    monitor: u16,
    child: Child,
}

impl Server {
    pub fn start(dir: &Path) -> Self {
        let [port, monitor] = free_ports();
        let config = fs::read_to_string("docs/nats.conf").unwrap();
        let config = config
            .replace("0.0.0.0:4222", &format!("127.0.0.1:{port}"))
            .replace("nats-store", &dir.join("store").display().to_string());
        let config = format!("{config}\nhttp: \"127.0.0.1:{monitor}\"\n");
        fs::write(dir.join("nats.conf"), config).unwrap();
        Self {
            child: spawn(dir, port),
            dir: dir.to_owned(),
            port,
            monitor,
        }
    }

    #[allow(dead_code)] // not everybody looks at it
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Messages that it has taken and given so far.
    #[allow(dead_code)]
    pub fn messages(&self) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.monitor)).unwrap();
        stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (_, body) = reply.split_once("\r\n\r\n").unwrap();
        let said: serde_json::Value = serde_json::from_str(body).unwrap();
        said["in_msgs"].as_u64().unwrap() + said["out_msgs"].as_u64().unwrap()
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Again, after it was killed, at the same place.
    #[allow(dead_code)] // not everybody kills it
    pub fn restart(&mut self, keeps_store: bool) {
        if !keeps_store {
            let _ = fs::remove_dir_all(self.dir.join("store"));
        }
        self.child = spawn(&self.dir, self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two, held together, so that they are different.
fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Starts it and waits until it answers.
fn spawn(dir: &Path, port: u16) -> Child {
    let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
    let mut command = Command::new(program);
    let child = command
        .arg("-c")
        .arg(dir.join("nats.conf"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
