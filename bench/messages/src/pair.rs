//! One to one: as many in flight as asked for, each followed by the next.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    BODY, Result,
    stats::{Sample, cpu_time},
};

/// Time before the measured one.
const WARM_UP: Duration = Duration::from_millis(500);

/// Two nodes with a connection.
pub(crate) trait Pair: Clone + Send + Sync + 'static {
    /// Sends a request and waits for a reply of the same size.
    fn ask(&self, body: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Sends a message and waits until the other side's application has it.
    fn tell(&self, body: Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// Measures requests, or messages.
pub(crate) async fn run(
    pair: impl Pair,
    ask: bool,
    in_flight: usize,
    during: Duration,
) -> Result<Sample> {
    work(&pair, ask, in_flight, WARM_UP).await?;
    let (start, cpu) = (Instant::now(), cpu_time()?);
    let latencies = work(&pair, ask, in_flight, during).await?;
    let (took, cpu) = (start.elapsed(), cpu_time()? - cpu);
    Sample::new(latencies.len(), took, cpu, 1.0, latencies)
}

async fn work(
    pair: &impl Pair,
    ask: bool,
    in_flight: usize,
    during: Duration,
) -> Result<Vec<Duration>> {
    let body = Bytes::from(vec![0x5a; BODY]);
    let end = Instant::now() + during;
    let worker = || {
        let (pair, body) = (pair.clone(), body.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                match ask {
                    true => pair.ask(body.clone()).await?,
                    false => pair.tell(body.clone()).await?,
                }
                latencies.push(start.elapsed());
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(latencies)
        })
    };
    let workers: Vec<_> = (0..in_flight).map(|_| worker()).collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??);
    }
    Ok(all)
}
