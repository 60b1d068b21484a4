//! `evergreen completion SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, exit::Outcome};

/// Print a shell completion script.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    source <(evergreen completion bash)\n  \
    evergreen completion zsh > \"${fpath[1]}/_evergreen\"\n  \
    evergreen completion fish > ~/.config/fish/completions/evergreen.fish")]
pub struct CompletionArgs {
    /// Shell to write it for.
    shell: Shell,
}

pub fn run(args: &CompletionArgs) -> Outcome {
    clap_complete::generate(args.shell, &mut Cli::command(), "evergreen", &mut std::io::stdout());
    Ok(())
}
