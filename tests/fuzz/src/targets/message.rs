//! The message that a project and an image make up together.

use std::collections::BTreeMap;

use sandbox::launcher::wire::{MESSAGE_BYTES_MAX, Request};
use sandbox::policy::Choice;
use sandbox::spec::{CellSpec, ImageConfig, LayerId, Limits, Network, ProjectId};

/// It is no longer than the launcher reads, whatever is in it.
pub(super) fn fits(layers: Vec<LayerId>, image: ImageConfig, env: BTreeMap<String, String>, limits: Limits) {
    let spec = CellSpec {
        project: ProjectId::parse(&"x".repeat(40)).expect("it is one"),
        layers,
        image,
        env,
        limits,
        network: Network::None,
        log_bytes: 1 << 20,
        policy: Choice::default(),
    };
    let message = serde_json::to_vec(&Request::StartCell(Box::new(spec))).expect("it has only texts and numbers");
    assert!(message.len() <= MESSAGE_BYTES_MAX, "{} bytes for the launcher", message.len());
}
