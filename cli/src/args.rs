//! The command tree: names, flags, defaults and the help that teaches them. Meaning lives with each command.

use clap::{Parser, Subcommand};

use crate::{commands, demo, exit::Outcome};

const EXIT_CODES: &str = "\
Exit codes:
  0  ok
  1  the answer is no (a story failed, a playbook has errors)
  2  wrong use (unknown flag, unreadable file)
  3  could not reach something (plane, API server, a program of the product)

Every flag can be given as EVERGREEN_<FLAG> in the environment.";

const EXAMPLES: &str = "\
Examples:
  evergreen demo                     three simulated data centers, three stories, one report
  evergreen demo --keep              the same, and the page stays up until Ctrl-C
  evergreen top --plane http://plane.example:8080
  evergreen playbook lint library/*.yaml
  evergreen report energy --from 24h --format html > energy.html
  evergreen rehearse --demo --every-failure   what would be lost with each node, zone, data center
  evergreen twin serve --site dc-a --nodes 5   then: kubectl --kubeconfig target/twin/dc-a.kubeconfig get nodes
  evergreen crds --out charts/evergreen/crds";

/// Keeps services alive across data centers, heals what breaks, accounts for the energy it takes.
#[derive(Debug, Parser)]
#[command(name = "evergreen", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole product on simulated data centers: heal a node, lose a site, report the energy.
    Demo(demo::DemoArgs),
    /// Show sites, quorum, services, who may write, headroom, and what is held and why.
    Status(commands::status::StatusArgs),
    /// Ask for a service to be held elsewhere because its data center is lost.
    Failover(commands::failover::MoveArgs),
    /// Ask for a planned move of a service.
    Switchover(commands::failover::MoveArgs),
    /// Ask for a service to go back to its preferred data center.
    Failback(commands::failover::MoveArgs),
    /// Approve a proposed move, or list what waits.
    Approve(commands::approve::ApproveArgs),
    /// Stop what moves services: the kill switch.
    Pause(commands::pause::PauseArgs),
    /// Let go on what was stopped.
    Resume(commands::pause::PauseArgs),
    /// Drills: move services away from a data center and back, and keep the scorecard.
    #[command(subcommand)]
    Drill(commands::drill::DrillCommand),
    /// Check, print or replay the audit log of a controller.
    #[command(subcommand)]
    Audit(commands::audit::AuditCommand),
    /// Show the fleet, live, from the monitoring plane.
    Top(commands::top::TopArgs),
    /// Rehearse losses on a copy of the real fleet: what moves, what does not fit, how long it takes.
    Rehearse(commands::rehearse::RehearseArgs),
    /// Simulated data centers.
    #[command(subcommand)]
    Twin(commands::twin::TwinCommand),
    /// The data of a monitoring plane: check it, copy it.
    #[command(subcommand)]
    Plane(commands::plane::PlaneCommand),
    /// Check self-healing playbooks.
    #[command(subcommand)]
    Playbook(commands::playbook::PlaybookCommand),
    /// Reports: energy by data center, measured and estimated told apart.
    #[command(subcommand)]
    Report(commands::report::ReportCommand),
    /// Management controllers (BMCs) of nodes: whether they answer and give their power.
    #[command(subcommand)]
    Bmc(commands::bmc::BmcCommand),
    /// Whether a release is as it should be, and whether it may go.
    #[command(subcommand)]
    Check(commands::check::CheckCommand),
    /// What binds data centers into a fleet.
    #[command(subcommand, name = "datacenter", alias = "dc")]
    DataCenter(commands::datacenter::DataCenterCommand),
    /// Print or write the custom resource definitions.
    Crds(commands::crds::CrdsArgs),
    /// Print the version.
    Version(commands::version::VersionArgs),
    /// Print a shell completion script.
    Completion(commands::completion::CompletionArgs),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the command could not do, with what to do about it.
    pub fn run(self) -> Outcome {
        match self.command {
            Command::Demo(args) => demo::run(args),
            Command::Status(args) => commands::status::run(&args),
            Command::Failover(args) => commands::failover::run(commands::failover::Move::Failover, &args),
            Command::Switchover(args) => commands::failover::run(commands::failover::Move::Switchover, &args),
            Command::Failback(args) => commands::failover::run(commands::failover::Move::Failback, &args),
            Command::Approve(args) => commands::approve::run(&args),
            Command::Pause(args) => commands::pause::pause(&args),
            Command::Resume(args) => commands::pause::resume(&args),
            Command::Drill(command) => commands::drill::run(command),
            Command::Audit(command) => commands::audit::run(command),
            Command::Top(args) => commands::top::run(&args),
            Command::Rehearse(args) => commands::rehearse::run(&args),
            Command::Twin(command) => commands::twin::run(command),
            Command::Plane(command) => commands::plane::run(&command),
            Command::Playbook(command) => commands::playbook::run(command),
            Command::Report(command) => commands::report::run(command),
            Command::Bmc(command) => commands::bmc::run(command),
            Command::Check(command) => commands::check::run(command),
            Command::DataCenter(command) => commands::datacenter::run(command),
            Command::Crds(args) => commands::crds::run(&args),
            Command::Version(args) => commands::version::run(&args),
            Command::Completion(args) => commands::completion::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn long_help_teaches_examples_and_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("could not reach"), "{help}");
    }

    #[test]
    fn every_flag_has_its_environment_twin() {
        fn walk(command: &clap::Command) {
            for flag in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let long = flag.get_long().unwrap_or_default();
                if matches!(long, "help" | "version") {
                    continue;
                }
                let twin = format!("EVERGREEN_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(flag.get_env().and_then(|e| e.to_str()), Some(&*twin), "{} --{long}", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    /// Lines of `sh` blocks in a page, continued ones joined, without comments.
    fn shell_lines(page: &str) -> Vec<String> {
        let (mut lines, mut inside, mut begun) = (Vec::new(), false, String::new());
        for line in page.lines() {
            let text = line.trim();
            if let Some(language) = text.strip_prefix("```") {
                inside = !inside && (language == "sh" || language.is_empty());
                continue;
            }
            if !inside {
                continue;
            }
            match text.strip_suffix('\\') {
                Some(part) => begun.push_str(part),
                None => lines.push(std::mem::take(&mut begun) + text),
            }
        }
        lines
    }

    #[test]
    fn every_command_that_a_page_shows_is_understood() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut pages: Vec<_> = ["docs", "docs/decisions"]
            .iter()
            .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
            .collect();
        pages.extend(["README.md", "README.zh-CN.md"].map(|name| root.join(name)));
        let (mut seen, mut wrong) = (0, Vec::new());
        for page in pages {
            for line in shell_lines(&std::fs::read_to_string(&page).unwrap()) {
                let Some(words) = shlex::split(&line) else { continue };
                for command in words.split(|word| word == "|" || word == "&&" || word == ";") {
                    let end = command.iter().position(|word| word == ">" || word == ">>").unwrap_or(command.len());
                    // `...` stands for more of the same; `a | b` lists of commands are no commands.
                    if command.first().is_none_or(|first| first != "evergreen") || line.contains("...") || end < 2 {
                        continue;
                    }
                    seen += 1;
                    if let Err(error) = Cli::try_parse_from(&command[..end])
                        && error.use_stderr()
                    {
                        wrong.push(format!(
                            "{}: {line}: {}",
                            page.display(),
                            error.to_string().lines().next().unwrap_or("")
                        ));
                    }
                }
            }
        }
        assert!(seen > 30, "only {seen} commands were found");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
