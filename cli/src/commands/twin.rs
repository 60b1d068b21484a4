//! `evergreen twin serve`: a simulated data center for kubectl and for trying things out.

use std::{
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use evergreen_api::resources::all_crds;
use evergreen_twin::{DEVIATIONS, HostSpec, NodeSpec, SimulatedHost, Timing, Twin, story};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{asked_to_end, block_on},
    demo::{install, secret_file},
    exit::{Failure, Outcome},
};

/// Simulated data centers.
#[derive(Debug, Subcommand)]
pub enum TwinCommand {
    /// Serve a simulated data center over TLS, until Ctrl-C.
    Serve(ServeArgs),
    /// Play stories of what happens to a data center, in virtual time.
    Story(StoryArgs),
}

/// Play stories.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen twin story twin/stories/node-lost.yaml\n  \
    evergreen twin story --all                            every story of twin/stories\n  \
    evergreen twin story --sentences                      the sentences that a story is made of\n\n\
    Exit code 1 means that something was not as the story says; 2 that a story cannot be read.")]
pub struct StoryArgs {
    /// Story files.
    #[arg(required_unless_present_any = ["all", "sentences"])]
    files: Vec<PathBuf>,
    /// Every *.yaml of the folder.
    #[arg(long, env = "EVERGREEN_ALL", conflicts_with = "files")]
    all: bool,
    /// Folder for --all.
    #[arg(long, env = "EVERGREEN_FOLDER", default_value = "twin/stories")]
    folder: PathBuf,
    /// Print the sentences that are understood, and end.
    #[arg(long, env = "EVERGREEN_SENTENCES")]
    sentences: bool,
}

/// Serve a simulated data center.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen twin serve                                   dc-a with 3 nodes\n  \
    kubectl --kubeconfig target/twin/dc-a.kubeconfig get nodes\n  \
    kubectl --kubeconfig target/twin/dc-a.kubeconfig apply -f deployment.yaml\n  \
    evergreen-agent --once --root target/twin/dc-a/dc-a-1  reads a simulated node\n  \
    kubectl --kubeconfig target/twin/dc-a.kubeconfig --context dc-a-certificate auth whoami\n  \
    evergreen twin serve --site dc-b --nodes 20 --listen 127.0.0.1:7001 --kubernetes-timing\n\n\
    The kubeconfig holds the authority of this run, a token and a client certificate; a wrong token is answered 401.\n\
    With --plain it is HTTP on loopback, and the bearer token is whatever name the client gives itself.\n\
    It is a simulator with a published list of deviations (--deviations), not a Kubernetes distribution.")]
pub struct ServeArgs {
    /// Name of the data center.
    #[arg(long, env = "EVERGREEN_SITE", default_value = "dc-a")]
    site: String,
    /// Simulated nodes.
    #[arg(long, env = "EVERGREEN_NODES", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=500))]
    nodes: u16,
    /// Address to serve at; port 0 takes a free one.
    #[arg(long, env = "EVERGREEN_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// HTTP without TLS and without a check of who asks; on loopback only.
    #[arg(long, env = "EVERGREEN_PLAIN")]
    plain: bool,
    /// Folder for the kubeconfig and the simulated hosts' trees.
    #[arg(long, env = "EVERGREEN_OUT", default_value = "target/twin")]
    out: PathBuf,
    /// Let nodes and pods take their time as a real cluster does, not seconds.
    #[arg(long, env = "EVERGREEN_KUBERNETES_TIMING")]
    kubernetes_timing: bool,
    /// Print in what the twin differs from a cluster, and end.
    #[arg(long, env = "EVERGREEN_DEVIATIONS")]
    deviations: bool,
    /// Print where it is served as JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

pub fn run(command: TwinCommand) -> Outcome {
    match command {
        TwinCommand::Serve(args) if args.deviations => {
            DEVIATIONS.iter().for_each(|deviation| println!("- {deviation}"));
            Ok(())
        }
        TwinCommand::Serve(args) => block_on(serve(args)),
        TwinCommand::Story(args) if args.sentences => {
            for (list, sentences) in [("given", story::GIVEN), ("when", story::WHEN), ("then", story::THEN)] {
                println!("{list}:");
                sentences.iter().for_each(|sentence| println!("  {sentence}"));
            }
            Ok(())
        }
        TwinCommand::Story(args) => stories(args),
    }
}

fn stories(args: StoryArgs) -> Outcome {
    let mut files = args.files;
    if args.all {
        let entries = std::fs::read_dir(&args.folder).map_err(|error| {
            Failure::usage(format_args!("cannot read {}: {error}", args.folder.display()))
                .remedy("--folder with the folder of the stories")
        })?;
        files.extend(entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")));
        files.sort();
    }
    let mut wrong = 0;
    for file in &files {
        let story = read_story(file)?;
        // A clock of its own for each story: it stands still until nothing is left to do, then jumps.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.context("cannot start the runtime")?;
        let told = runtime.block_on(story::play(&story)).map_err(anyhow::Error::msg)?;
        println!("{}", told.text);
        wrong += told.wrong.len();
    }
    match wrong {
        0 => Ok(()),
        n => Err(anyhow::anyhow!("{n} sentences were not so; they are marked NOT above").into()),
    }
}

/// Reads a story; what is wrong with it is told as `FILE:LINE: place: reason`.
fn read_story(file: &Path) -> Outcome<story::Story> {
    let unreadable = |error: std::io::Error| Failure::usage(format_args!("cannot read {}: {error}", file.display()));
    let mut text = String::new();
    // One byte more than a story may have is enough to see that it is too long.
    let limit = story::MAX_FILE as u64 + 1;
    std::fs::File::open(file).and_then(|f| f.take(limit).read_to_string(&mut text)).map_err(unreadable)?;
    story::parse(&text).map_err(|error| {
        Failure::usage(format_args!("{}:{error}", file.display())).remedy("evergreen twin story --sentences")
    })
}

async fn serve(args: ServeArgs) -> Outcome {
    if args.plain && !args.listen.ip().is_loopback() {
        return Err(Failure::usage(format_args!("--listen {}: with --plain nobody is asked who it is", args.listen))
            .remedy("an address of this machine's loopback, as in 127.0.0.1:7001, or no --plain"));
    }
    let timing = if args.kubernetes_timing { Timing::kubernetes() } else { Timing::short() };
    let mut builder = Twin::builder(&args.site).timing(timing);
    for number in 1..=args.nodes {
        builder = builder.node(node(&args.site, number, &args.out)?);
    }
    let twin = builder.build();
    let served = if args.plain { twin.serve(args.listen).await } else { twin.serve_tls(args.listen).await };
    let served = served.map_err(|error| {
        Failure::usage(format_args!("cannot serve at {}: {error}", args.listen)).remedy("another --listen, or port 0")
    })?;
    let client = twin.client("admin");
    for crd in all_crds() {
        install::create(&client, &serde_json::to_value(crd).map_err(anyhow::Error::from)?).await?;
    }
    let kubeconfig = args.out.join(format!("{}.kubeconfig", args.site));
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let identity = if args.plain { "admin" } else { "kubernetes-admin" };
    let text = served.try_kubeconfig(identity).context("cannot make the kubeconfig")?;
    secret_file(&kubeconfig, &text)?;
    let cancel = CancellationToken::new();
    let running = twin.start(cancel.clone());
    tell(&args, &served.url(), &kubeconfig);
    asked_to_end().await;
    cancel.cancel();
    served.stop();
    let _ = running.await;
    Ok(())
}

fn node(site: &str, number: u16, out: &Path) -> Outcome<NodeSpec> {
    let name = format!("{site}-{number}");
    let root = out.join(site).join(&name);
    let host = SimulatedHost::create(&root, HostSpec::server(&name))
        .with_context(|| format!("cannot write the simulated host {}", root.display()))?;
    Ok(NodeSpec::new(&name).label(evergreen_api::names::LABEL_SITE, site).host(host))
}

fn tell(args: &ServeArgs, url: &str, kubeconfig: &Path) {
    let hosts = args.out.join(&args.site);
    if args.json {
        println!("{}", json!({"site": args.site, "server": url, "kubeconfig": kubeconfig, "hosts": hosts}));
        return;
    }
    println!("{} is served at {url} with {} nodes; Ctrl-C ends it.", args.site, args.nodes);
    println!("  kubectl --kubeconfig {} get nodes", kubeconfig.display());
    println!("  hosts are below {}", hosts.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_twin_that_asks_nobody_is_not_served_beyond_loopback() {
        let args = ServeArgs {
            site: "dc-a".into(),
            nodes: 1,
            listen: "0.0.0.0:0".parse().unwrap(),
            plain: true,
            out: "unused".into(),
            kubernetes_timing: false,
            deviations: false,
            json: false,
        };
        assert_eq!(serve(args).await.unwrap_err().code(), 2);
    }
}
