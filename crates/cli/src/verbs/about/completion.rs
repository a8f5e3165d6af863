//! `completion`.

use clap::ValueEnum;
use walarchive_core::Result;

use crate::print;

/// `completion`.
#[derive(Debug, clap::Args)]
pub struct Completion {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// source <(walarchive completion bash)
    Bash,
    /// walarchive completion zsh > "${fpath[1]}/_walarchive"
    Zsh,
    /// walarchive completion fish | source
    Fish,
}

/// Print the shell's file of completions, for the name that this program was called by.
pub fn complete(args: &Completion, mut command: clap::Command) -> Result<()> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let called = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = called.as_deref().and_then(|path| path.file_name()?.to_str());
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name.unwrap_or("walarchive"), &mut text);
    print::piece(&String::from_utf8_lossy(&text))
}
