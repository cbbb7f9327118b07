//! The garbage of images: what goes by itself, by request, and what a cell or somebody who brings an image in is sure of.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::place::{Place, image_of};

/// An OCI layout of a small system whose greeting is this.
fn layout(place: &Place, greeting: &str) -> String {
    let rootfs = place.rootfs();
    fs::write(rootfs.join("greeting"), greeting).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", &rootfs).unwrap();
    let layer = tar.into_inner().unwrap();
    fs::remove_dir_all(rootfs).unwrap();
    image_of(&layer, &layer).layout(place.path(&format!("layout-{greeting}"))).display().to_string()
}

fn greet(place: &Place, project: &str) -> String {
    place.does(&["run", project, "--", "/bin/cat", "/greeting"]).trim_end().to_owned()
}

#[test]
fn the_layers_of_an_image_that_is_imported_anew_go_unless_a_cell_runs_them() {
    let Some(place) = Place::new(&["busybox"]) else { return };
    let [one, two, three] = ["one", "two", "three"].map(|greeting| layout(&place, greeting));
    let import = |layout: &str| place.does(&["image", "import", layout, "--name", "tools"]);
    assert!(!import(&one).contains("removed"));
    let said = import(&two);
    assert!(said.contains("\nremoved 1 layers that no image needs any more, "), "{said}");
    assert_eq!(place.layers().len(), 1);
    place.does(&["project", "create", "demo", "--image", "tools"]);
    let mut command = place.cloister(&["run", "demo", "--", "/bin/sh", "-c", "echo here; read line; cat /greeting"]);
    let mut cell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(cell.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap().trim_end(), "here");
    assert!(!import(&three).contains("removed"), "a cell runs it");
    assert_eq!(place.layers().len(), 2);
    assert!(place.does(&["image", "prune"]).contains("; 1 in use by running cells stay"));
    drop(cell.stdin.take());
    assert_eq!(said.last().unwrap().unwrap().trim_end(), "two", "the cell has its image to the end");
    cell.wait().unwrap();
    place.does(&["project", "stop", "demo"]);
    assert!(place.does(&["image", "prune"]).starts_with("removed 1 layers, "));
    assert_eq!((place.layers().len(), greet(&place, "demo").as_str()), (1, "three"));
}

#[test]
fn a_dry_run_says_what_would_go_and_removes_nothing() {
    let Some(place) = Place::new(&["busybox"]) else { return };
    let (used, unused) = (layout(&place, "used"), layout(&place, "unused"));
    place.does(&["image", "import", &used, "--name", "used"]);
    place.does(&["image", "import", &unused, "--name", "unused"]);
    place.does(&["project", "create", "demo", "--image", "used"]);
    let garbage = place.path("state/layers").join("0".repeat(64));
    fs::create_dir(&garbage).unwrap();
    fs::write(garbage.join("file"), vec![b'x'; 5 << 20]).unwrap();
    let before = (place.layers(), place.does(&["image", "ls"]));
    let said = place.does(&["image", "prune", "--dry-run"]);
    assert!(said.starts_with("would remove 1 layers, 5.0"), "{said}");
    let said = place.does(&["image", "prune", "--dry-run", "--unused"]);
    assert!(said.starts_with("would remove image unused, which no project names\nwould remove 2 layers, "), "{said}");
    assert_eq!((place.layers(), place.does(&["image", "ls"])), before);
    let said = place.does(&["image", "prune"]);
    assert!(said.starts_with("removed 1 layers, 5.0"), "{said}");
    assert_eq!((place.layers().len(), place.does(&["image", "ls"])), (2, before.1));
}

#[test]
fn images_that_nobody_names_go_by_request() {
    let Some(place) = Place::new(&["busybox"]) else { return };
    for name in ["default", "named", "runs", "unused"] {
        place.does(&["image", "import", &layout(&place, name), "--name", name]);
    }
    place.does(&["project", "create", "plain"]);
    place.does(&["project", "create", "other", "--image", "named"]);
    place.does(&["project", "create", "changed", "--image", "runs"]);
    let mut command = place.cloister(&["run", "changed", "--", "/bin/sh", "-c", "echo here; read line"]);
    let mut cell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(cell.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap().trim_end(), "here");
    let settings = place.path("projects/changed/project.toml");
    fs::write(&settings, "image = ").unwrap();
    let before = (place.layers(), place.does(&["image", "ls"]));
    place.fails(&["image", "prune", "--unused"], "nothing is removed: project changed: ");
    assert_eq!((place.layers(), place.does(&["image", "ls"])), before);
    fs::write(&settings, "image = 'named'").unwrap();
    let said = place.does(&["image", "prune", "--unused"]);
    assert!(said.contains("image runs stays, the cell of project changed uses it\n"), "{said}");
    assert!(said.contains("removed image unused, which no project named\n"), "{said}");
    let list = place.does(&["image", "ls"]);
    let names: Vec<_> = list.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["default", "named", "runs"]);
    assert_eq!(place.layers().len(), 3);
    drop(cell.stdin.take());
    cell.wait().unwrap();
    assert_eq!((greet(&place, "plain").as_str(), greet(&place, "changed").as_str()), ("default", "named"));
}

#[test]
fn cells_start_while_their_image_is_imported_anew_again_and_again() {
    let Some(place) = Place::new(&["busybox"]) else { return };
    let layouts = ["one", "two"].map(|greeting| layout(&place, greeting));
    let import = |layout: &str| place.does(&["image", "import", layout, "--name", "tools"]);
    import(&layouts[0]);
    place.does(&["project", "create", "demo", "--image", "tools"]);
    std::thread::scope(|scope| {
        let imports = scope.spawn(|| {
            for layout in layouts.iter().cycle().take(20) {
                import(layout);
            }
        });
        for _ in 0..10 {
            let greeting = greet(&place, "demo");
            assert!(["one", "two"].contains(&greeting.as_str()), "{greeting}");
        }
        imports.join().unwrap();
    });
    place.does(&["project", "stop", "demo"]);
    place.does(&["image", "prune"]);
    assert_eq!((place.layers().len(), greet(&place, "demo").as_str()), (1, "two"));
}
