//! Shell completions and man pages, made from the command line's and the configuration's own tables.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, VERSION};
use crate::config::{Config, KEYS};

/// Prints a shell's completion script.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cloister", &mut script);
    io::stdout().write_all(&script).context("write the script")
}

/// Writes a page for each subcommand into section 1 and one for the configuration file into section 5.
pub(crate) fn man(folder: &Path) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        std::fs::write(folder.join("cloister-config.5"), configuration()?)
    };
    write().with_context(|| format!("write the man pages into {}", folder.display()))
}

fn configuration() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]).text([roman("cloister-config - configuration of cloister(1)")]);
    roff.control("SH", ["DESCRIPTION"]).text([roman(
        "The file /etc/cloister/config.toml, or the one that --config names, holds the keys below as TOML. \
         A variable in the environment goes before the file, a flag before both. An unknown key or variable is an error.",
    )]);
    roff.control("SH", ["KEYS"]);
    for key in KEYS {
        let variable = format!("CLOISTER_{}", key.variable());
        let default = (key.get)(&Config::default());
        roff.control("TP", []).text([bold(key.name), roman(" ("), bold(variable), roman(")")]);
        roff.text([roman(key.doc)]).control("br", []);
        roff.text([roman(if default.is_empty() { "Default: none".to_owned() } else { format!("Default: {default}") })]);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("cloister(1)")]);
    Man::new(clap::Command::new("cloister-config").version(VERSION)).section("5").render_title(&mut page)?;
    roff.to_writer(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `docs/configuration.md`.
    fn table() -> String {
        let mut table = "| key | variable | meaning | default |\n|---|---|---|---|\n".to_owned();
        for key in KEYS {
            let default = (key.get)(&Config::default());
            let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
            table.push_str(&format!("| `{}` | `CLOISTER_{}` | {} | {default} |\n", key.name, key.variable(), key.doc));
        }
        table
    }

    #[test]
    fn the_documentation_has_every_key() {
        let text = include_str!("../docs/configuration.md");
        assert!(text.contains(&table()), "docs/configuration.md needs this table:\n{}", table());
    }
}
