//! Serves one data center of three nodes and prints where its kubeconfig is: a twin to try kubectl on.

use evergreen_twin::{NodeSpec, Timing, Twin};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "twin.kubeconfig".to_owned());
    let mut builder = Twin::builder("dc-a").timing(Timing::short());
    for n in 1..=3 {
        builder = builder.node(NodeSpec::new(&format!("dc-a-{n}")));
    }
    let twin = builder.build();
    let cancel = CancellationToken::new();
    let running = twin.start(cancel.clone());
    let served = twin.serve("127.0.0.1:0".parse()?).await?;
    std::fs::write(&path, served.kubeconfig("kubectl"))?;
    println!("kubectl --kubeconfig {path} get nodes");
    tokio::signal::ctrl_c().await?;
    cancel.cancel();
    running.await?;
    Ok(())
}
