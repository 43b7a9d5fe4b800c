//! What the frontends count, for Prometheus: `GET /metrics` where `--metrics` says.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use muxfs::{Error, ErrorKind, Result};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How often histograms are drained, so that they stay small where nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

/// Begins to count.
pub(crate) fn install() -> Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().install_recorder();
    recorder.map_err(|error| Error::new(ErrorKind::Internal, "metrics.install").because(error))
}

/// Serves what was counted until `stop`; drains it in any case.
pub(crate) async fn serve(
    recorder: PrometheusHandle,
    addr: Option<SocketAddr>,
    stop: CancellationToken,
) -> Result<Option<(SocketAddr, JoinHandle<()>)>> {
    let upkeep = recorder.clone();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        while stopped.run_until_cancelled(ticks.tick()).await.is_some() {
            upkeep.run_upkeep();
        }
    });
    let Some(addr) = addr else { return Ok(None) };
    let fail = |error: std::io::Error| Error::new(ErrorKind::Io, "metrics.listen").at(addr).because(error);
    let listener = TcpListener::bind(addr).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let app = Router::new().route("/metrics", get(move || std::future::ready(recorder.render())));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "the metrics server failed");
        }
    });
    Ok(Some((bound, task)))
}
