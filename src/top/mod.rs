//! `cloister top`: the cells of a running server and what they use, as a table that is drawn again and again, or once.
//!
//! [`ask`] asks the server, [`rows`] compares two answers, [`table`] makes lines of them, [`live`] draws those. Whatever the server
//! says is a stranger's: it is checked where it enters, and no control character gets to the terminal.

mod ask;
mod live;
mod rows;
mod table;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::TopOptions;
use crate::client;
use crate::config::Config;
use ask::Server;
use rows::Rows;

/// Between the two looks of a table that is printed once: long enough for a percentage that means something.
const ONCE_WAIT: Duration = Duration::from_secs(1);

/// Shows the table until it is left, or once where nobody could see it change.
pub(crate) fn run(config: &Config, options: TopOptions) -> anyhow::Result<ExitCode> {
    let TopOptions { sort, every, once, json, server } = options;
    let (address, token) = client::server(config, &server)?;
    let server = Server::new(address, &token)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        if once || json || !io::stdout().is_terminal() {
            let rows = look_once(&server).await?;
            let text = if json { table::json(&rows) + "\n" } else { table::whole(&rows.sorted(sort)) };
            io::stdout().write_all(text.as_bytes()).context("write the table")?;
            return Ok(ExitCode::SUCCESS);
        }
        live::show(&server, sort, Duration::from_secs(every)).await
    })
}

async fn look_once(server: &Server) -> anyhow::Result<Rows> {
    let before = server.look().await?;
    tokio::time::sleep(ONCE_WAIT).await;
    Ok(Rows::new(Some(&before), server.look().await?))
}
