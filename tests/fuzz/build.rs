//! Tells the product's modules, which this package includes, that they are here to be fuzzed.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=fuzzing");
}
