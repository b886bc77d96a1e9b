//! An OpenAI-compatible endpoint on the batching engine: `/v1/models`, `/v1/completions`, `/v1/chat/completions`.
//!
//! `protocol` is what clients write and read, `routes` turns it into work, and the `desk` is the one thread that has the engine:
//! it takes all that waits into one batch, works it off, and takes the next. A client that goes away ends its part of the batch.
//! Everything that a client sends is bounded before anything is computed of it.

mod desk;
pub mod protocol;
mod routes;

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, runtime::Runtime};

use crate::model::{Engine, Tokenizer};
use desk::Desk;

/// Bytes of a request, at most.
const LONGEST_BODY: usize = 4 << 20;

/// What is served, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What clients call the model.
    pub name: String,
    /// What they have to bring as `Authorization: Bearer KEY`; nothing where there is none.
    pub key: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
}

/// A model behind a door.
pub struct Server {
    settings: Settings,
    tokenizer: Arc<Tokenizer>,
    /// Tokens of a prompt with its answer, at most.
    context: usize,
    desk: Desk,
}

impl Server {
    /// Takes an engine; a thread of its own works with it until the server is dropped.
    pub fn new(engine: Engine, settings: Settings) -> Self {
        Self {
            settings,
            tokenizer: engine.tokenizer().clone(),
            context: engine.decoder().spec().max_positions,
            desk: Desk::open(engine),
        }
    }

    /// Answers whoever comes, until `end` comes about; answers that are under way are finished.
    ///
    /// # Errors
    /// The listener breaks down.
    pub async fn run(self, listener: TcpListener, end: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let routes = routes::routes(Arc::new(self));
        axum::serve(listener, routes).with_graceful_shutdown(end).await
    }

    /// Answers whoever comes from this machine, on threads of its own, until what is given back is dropped.
    ///
    /// # Errors
    /// There is no port or no thread left.
    pub fn stand(self) -> io::Result<Standing> {
        let tasks = threads()?;
        let listener = tasks.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        tasks.spawn(self.run(listener, std::future::pending()));
        Ok(Standing {
            address,
            tasks: Some(tasks),
        })
    }
}

/// Threads for a server.
///
/// # Errors
/// There are none left.
pub fn threads() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

/// A server at work. Who is in the middle of an answer when it ends gets no more of it.
pub struct Standing {
    address: SocketAddr,
    /// `None` once it has ended.
    tasks: Option<Runtime>,
}

impl Standing {
    /// As clients of the protocol want it: `http://127.0.0.1:41234/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if let Some(tasks) = self.tasks.take() {
            tasks.shutdown_background();
        }
    }
}
