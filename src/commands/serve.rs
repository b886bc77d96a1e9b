//! `heterosis serve`: a model, a recipe or a run's child behind an OpenAI-compatible endpoint.

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;

use super::{Failure, Outcome, environment, runtime, say};
use crate::{
    cli::ServeArgs,
    serve::{Server, Settings, threads},
};

pub fn serve(args: ServeArgs) -> Outcome {
    if args.api_key.as_deref().is_some_and(|key| key.trim().is_empty()) {
        let reason = "--api-key (HETEROSIS_API_KEY) is empty: give a key, or leave it out";
        return Err(anyhow::anyhow!(reason).into());
    }
    if !is_loopback(&args.host) && args.api_key.is_none() {
        say(format_args!(
            "warning: whoever reaches {} can use this model; --api-key KEY asks for a key",
            args.host
        ));
    }
    let served = runtime::talker(&args.model, &args.engine)?;
    let settings = Settings {
        name: args.name.unwrap_or(served.name),
        key: args.api_key,
        created: environment::now_ms() / 1000,
    };
    let name = settings.name.clone();
    let server = Server::new(served.engine, settings);
    let tasks = threads().context("no threads for the server")?;
    let served = tasks.block_on(async {
        let place = (args.host.as_str(), args.port);
        let listener = TcpListener::bind(place).await;
        let listener = listener.with_context(|| format!("cannot listen at {}:{}", args.host, args.port))?;
        let at = listener.local_addr()?;
        say(format_args!("serving {name} at http://{at}/v1; Ctrl-C ends it"));
        server.run(listener, interrupted()).await.map_err(|e| anyhow!(e))
    });
    served.map_err(Failure::work)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Ctrl-C, or whoever stops services.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}
