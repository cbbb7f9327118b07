//! `cloister project why`: asks the running server why a project's cell is as it is, since it alone has seen what happened in it.
//! It needs no privilege and no launcher.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use sandbox::spec::ProjectId;

use crate::cell::{Deed, seconds, spoken};
use crate::cli::WhyOptions;
use crate::client::{ANSWER_WAIT_MAX, Address, bearer, server, without_controls};
use crate::config::Config;
use crate::project::{Activity, Condition, Step, Why};

/// Longest answer in bytes, many times what the server sends.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks and prints.
pub(crate) fn run(config: &Config, options: WhyOptions) -> anyhow::Result<ExitCode> {
    let id = ProjectId::parse(&options.id).with_context(|| format!("project `{}`", options.id.escape_debug()))?;
    let (address, token) = server(config, &options.server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let body = runtime.block_on(ask(&address, &token, &id))?;
    let why: Why =
        serde_json::from_slice(&body).context("the server's answer means nothing: is it of another version?")?;
    let text = if options.json {
        without_controls(&serde_json::to_string_pretty(&why)?) + "\n"
    } else {
        told(&id, &why, seconds(SystemTime::now()))
    };
    io::stdout().write_all(text.as_bytes()).context("write why")?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(address: &Address, token: &str, id: &ProjectId) -> anyhow::Result<Bytes> {
    let request = address.request(Method::GET, &format!("/api/projects/{id}/why"));
    let request = request.header(AUTHORIZATION, bearer(token)?).body(Full::default())?;
    let answer = address.ask(request).await.map_err(|error| {
        anyhow!(error).context(format!(
            "no server at {}: without one nothing is frozen and nothing is known of the past; name another by --url",
            address.authority
        ))
    })?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(ANSWER_WAIT_MAX, body).await.context("no answer in time")?;
    let body = body.map_err(|error| anyhow!("the server's answer: {error}"))?.to_bytes();
    if status != StatusCode::OK {
        let message = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let message = message.as_ref().and_then(|body| body.get("error")?.get("message")?.as_str());
        bail!("the server answered {status}: {}", message.unwrap_or("for no reason that it said").escape_debug());
    }
    Ok(body)
}

/// Puts it into words.
fn told(id: &ProjectId, why: &Why, now: u64) -> String {
    let ago = |at: u64| format!("{} ago", spoken(Duration::from_secs(now.saturating_sub(at))));
    let since = why.since.map(|at| format!(", since {}", spoken(Duration::from_secs(now.saturating_sub(at)))));
    let since = since.unwrap_or_default();
    let reason = why.reason.as_ref().map(|reason| format!(": {}", reason.escape_debug())).unwrap_or_default();
    let mut text = match why.state {
        Condition::Running => format!("{id} runs\n"),
        Condition::Frozen => format!("{id} is frozen{since}: the next key has it go on\n"),
        Condition::Stopping => format!("{id} is being stopped\n"),
        Condition::Stopped => format!("{id} is stopped{since}{reason}\n"),
    };
    if let Some(Activity { what, at, cpu_percent }) = &why.activity {
        let what = match what {
            Deed::Request => "a client came, or something was asked of it",
            Deed::Input => "input",
            Deed::Output => "output",
            Deed::Work => "its programs were busy",
            Deed::Thaw => "somebody else had it go on",
        };
        let cpu = cpu_percent.map(|percent| format!("; processor {percent:.1} %")).unwrap_or_default();
        text += &format!("last activity: {what}, {}{cpu}\n", ago(*at));
    }
    for (verb, step) in [("frozen", &why.freeze), ("stopped", &why.stop)] {
        match step {
            Some(Step { at: Some(at), .. }) => {
                let left = spoken(Duration::from_secs(at.saturating_sub(now)));
                text += &format!("{verb} in {left}, if nothing happens until then\n");
            }
            Some(Step { never: Some(why), .. }) => text += &format!("not {verb}: {}\n", why.escape_debug()),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_an_answer() {
        let id = ProjectId::parse("demo").unwrap();
        let running = Why {
            state: Condition::Running,
            since: None,
            reason: None,
            activity: Some(Activity { what: Deed::Work, at: 990, cpu_percent: Some(35.04) }),
            freeze: Some(Step { at: Some(2_790), never: None }),
            stop: Some(Step { at: None, never: Some("idle_stop_s = 0".to_owned()) }),
        };
        let text = "demo runs\nlast activity: its programs were busy, 10 s ago; processor 35.0 %\n\
                    frozen in 29 min 50 s, if nothing happens until then\nnot stopped: idle_stop_s = 0\n";
        assert_eq!(told(&id, &running, 1000), text);
        let stopped = Why {
            state: Condition::Stopped,
            since: Some(400),
            reason: Some("somebody stopped it".to_owned()),
            activity: None,
            freeze: None,
            stop: None,
        };
        assert_eq!(told(&id, &stopped, 1000), "demo is stopped, since 10 min: somebody stopped it\n");
    }
}
