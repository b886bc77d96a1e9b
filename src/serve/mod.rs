//! An OpenAI-compatible endpoint on the batching engine: `/v1/models`, `/v1/completions`, `/v1/chat/completions`.
//!
//! `protocol` is what clients write and read, `routes` turns it into work, and the `desk` is the one thread that has the engine:
//! it takes all that waits into one batch, works it off, and takes the next. A client that goes away ends its part of the batch.
//! Everything that a client sends is bounded before anything is computed of it.

mod desk;
pub mod protocol;
mod routes;

use std::{future::Future, sync::Arc};

use tokio::net::TcpListener;

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
    pub async fn run(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let routes = routes::routes(Arc::new(self));
        axum::serve(listener, routes).with_graceful_shutdown(end).await
    }
}
