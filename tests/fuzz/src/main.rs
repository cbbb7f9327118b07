//! A target in libFuzzer's hands: the one that `FUZZ_TARGET` names. Started by `scripts/fuzz`.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    fuzz::target(&name)
        .unwrap_or_else(|| panic!("no target {name}: there are {:?}", fuzz::TARGETS.map(|(name, _)| name)))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
