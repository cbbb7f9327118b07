//! What a server in an attacker's hands says to the launcher.

use sandbox::launcher::Request;
use sandbox::launcher::check;
use sandbox::launcher::wire::MESSAGE_BYTES_MAX;
use sandbox::spec::CellSpec;

/// Bounds of a checked request, as the security document promises them and apart from the code that keeps them.
const LAYERS_MAX: usize = 128;
const ENVIRONMENT_BYTES_MAX: usize = 64 * 1024;
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// A message, as it came in one packet.
pub(crate) fn request(data: &[u8]) {
    if data.len() > MESSAGE_BYTES_MAX {
        return;
    }
    let Ok(request) = serde_json::from_slice::<Request>(data) else { return };
    let again = serde_json::to_vec(&request).expect("it has only texts and numbers");
    assert_eq!(serde_json::from_slice::<Request>(&again).expect("it is one"), request);
    match &request {
        Request::StartCell(spec) => cell(spec),
        Request::RemoveCell { project }
        | Request::RemoveProject { project }
        | Request::Usage { project }
        | Request::Freezer { project } => {
            names_a_folder(project.as_str());
        }
        // Its limits are checked as a cell's.
        Request::SetLimits { project, .. } => names_a_folder(project.as_str()),
        Request::RemoveLayer { layer } => names_a_layer(layer.as_str()),
        // Opaque to the launcher; `layer` tries what becomes of it.
        Request::Unpack { .. } | Request::Orphans => {}
    }
}

fn cell(spec: &CellSpec) {
    names_a_folder(spec.project.as_str());
    spec.layers.iter().for_each(|layer| names_a_layer(layer.as_str()));
    if let Err(reason) = check(spec) {
        assert!(!reason.is_empty() && reason.len() < 200, "{reason:?} is no clear error");
        return;
    }
    assert!((1..=LAYERS_MAX).contains(&spec.layers.len()));
    let environment = spec.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let environment = environment + spec.image.env.iter().map(String::len).sum::<usize>();
    assert!(environment <= ENVIRONMENT_BYTES_MAX);
    for (name, value) in &spec.env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
    assert!(spec.log_bytes.is_power_of_two() && (1 << 16..=1 << 26).contains(&spec.log_bytes));
    let limits = &spec.limits;
    assert!(limits.memory_bytes_max >= MEMORY_BYTES_MIN);
    assert!(limits.cpu_millis_max >= 10 && limits.pids_max >= 8 && limits.open_files_max >= 256);
}

/// One component of a path, which is neither hidden nor above, and goes on no command line as an option.
fn names_a_folder(name: &str) {
    let bytes = name.as_bytes();
    assert!((1..=40).contains(&bytes.len()), "{name:?}");
    assert!(bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{name:?}");
    assert!(bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-', "{name:?}");
}

fn names_a_layer(name: &str) {
    assert!(name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{name:?}");
}
